"""Refusals: what a model does with harmful, borderline and benign requests, and who judges that."""
