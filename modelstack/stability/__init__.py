"""Step 6, stability: runs that survive bad batches, dead processes and damaged files."""
