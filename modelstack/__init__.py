"""The twelve steps of a model, one folder each; nothing here imports torch by itself."""
