"""Checks and data files of the data pipeline: recall of near-duplicates, cases of private data, licence texts."""
