"""Encoder, decoder, the whole Transformer and its losses."""
