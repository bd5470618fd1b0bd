"""Decodes a test set, scores it and tabulates."""
