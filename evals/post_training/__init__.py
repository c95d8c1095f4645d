"""What post-training does to a model, measured before and after on both sides."""
