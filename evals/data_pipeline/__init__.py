"""Evaluates data recipes against labels and planted cases."""
