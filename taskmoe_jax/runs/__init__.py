"""What a run directory is: its files, checkpoints, and how they are read."""
