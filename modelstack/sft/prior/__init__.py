"""The fit of the prior for choosing a tool, from what a model says of held-back examples."""
