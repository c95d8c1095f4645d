"""Fit and measure the linear classifiers of `modelstack.align.guards`."""
