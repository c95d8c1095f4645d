"""The twelve steps of a model, one folder each; this file imports no torch."""
