"""Rejection sampling: a policy answers tasks several times, and its correct replies become training examples."""
