"""Step 6, stability: a run that survives bad batches, dead processes and broken files."""
