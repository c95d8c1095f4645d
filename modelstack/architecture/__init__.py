"""Step 4, architecture: one config, the blocks it chooses from, counts, and checkpoints in and out."""
