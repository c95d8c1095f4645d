"""Step 1, decide: model size, tokens, batch and cost of a training run, before anything runs; torch-free."""
