"""Step 11: the tool-call convention that a model is taught, and the grammar that enforces it. Torch-free."""
