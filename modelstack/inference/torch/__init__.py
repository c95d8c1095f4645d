"""Inference on the torch models, with the modules that training uses: paged KV, batches of any requests."""
