"""Fit and validate the refusal judge of `modelstack.align.guards`."""
