"""Rejection sampling: a policy answers tasks several times, and its right replies become examples."""
