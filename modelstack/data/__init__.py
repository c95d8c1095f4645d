"""Step 2, data: the texts that a model is trained on, and their order."""
