"""seqio tasks and mixtures, one file per corpus."""
