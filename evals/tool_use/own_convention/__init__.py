"""Compares a model's own convention for calls with this project's, on twenty easy requests of one call each."""
