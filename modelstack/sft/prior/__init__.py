"""Fit of the decision prior for tool calls, from a model's probabilities on held-back examples."""
