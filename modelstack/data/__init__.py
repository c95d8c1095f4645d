"""Step 2, data: what a model is trained on, and in which order."""
