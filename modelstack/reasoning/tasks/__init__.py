"""Tasks with verifiable answers: their file format, their golds, and the choice of the verifier."""
