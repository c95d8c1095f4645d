"""Losses of post-training as pure functions: policy gradients, critics, divergences, and what they are made of."""
