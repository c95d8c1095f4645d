"""Training of guard models, on the driver of all post-training."""
