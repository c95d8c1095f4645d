"""Step 1, decide: which model on how many tokens, and what it costs, before anything runs; no torch."""
