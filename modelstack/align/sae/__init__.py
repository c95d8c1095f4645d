"""Sparse autoencoders of a model's states: trained, measured, read by people, and used to steer."""
