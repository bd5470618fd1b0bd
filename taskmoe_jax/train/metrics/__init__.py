"""Metrics of a training, and where they are written."""
