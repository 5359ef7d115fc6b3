"""Decoding: from a language model's or a translator's logits to text."""
