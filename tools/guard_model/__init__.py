"""Fitting of the shipped guard models and their monitors."""
