"""Text that seqio tasks and mixtures give."""
