"""What an architecture choice is worth on a toy budget: the same training, one decision changed."""
