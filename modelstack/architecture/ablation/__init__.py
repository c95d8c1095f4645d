"""Ablations of architecture choices at a small budget: the same training, with one decision changed."""
