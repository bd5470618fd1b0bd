"""Sub-networks: extract, verify, write, load."""
