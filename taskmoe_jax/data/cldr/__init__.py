"""Parallel text generated from Unicode CLDR."""
