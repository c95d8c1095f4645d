"""Experiments on the effects of post-training, measured before and after on both sides."""
