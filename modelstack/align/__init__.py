"""Step 12: keep a model within what it should do. `guards` holds the shipped classifiers."""
