"""Readers of image data sets, and the sets by name."""
