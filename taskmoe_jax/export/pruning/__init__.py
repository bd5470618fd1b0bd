"""Mixtures without the experts that a language hardly uses."""
