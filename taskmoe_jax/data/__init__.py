"""Text as rows: sources, packing and batches (tensorflow, seqio)."""
