"""One training step: state, microbatches, gradients."""
