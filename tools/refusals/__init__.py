"""Data and measurements of a model's own refusals."""
