"""Evaluation of the shipped classifiers beside an n-gram baseline of the same run."""
