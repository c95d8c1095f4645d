"""Step 12, alignment: `guards` has the shipped classifiers of requests, tool results and replies."""
