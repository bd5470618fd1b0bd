"""Bundles made smaller: fewer pieces, fewer bits."""
