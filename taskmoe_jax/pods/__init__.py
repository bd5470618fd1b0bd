"""Programs compiled for TPU pods that are not there, and what they cost."""
