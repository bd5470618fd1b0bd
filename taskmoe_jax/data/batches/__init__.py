"""From token ids to batches: order, packing, scheduling."""
