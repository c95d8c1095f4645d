"""Whole training runs: recipe, assembly, folder and report."""
