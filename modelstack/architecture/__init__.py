"""Step 4, architecture: model config, its blocks, parameter and FLOP counts, checkpoint import and export."""
