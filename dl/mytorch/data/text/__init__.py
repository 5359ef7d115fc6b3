"""Readers of text data sets, vocabularies and tokens."""
