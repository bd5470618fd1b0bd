"""Attention, norms, embeddings and dense feed-forward layers."""
