"""When checkpoints are written, and how."""
