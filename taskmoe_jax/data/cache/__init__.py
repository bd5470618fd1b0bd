"""Tokenized text on disk: written once, read by many runs."""
