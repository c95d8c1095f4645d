"""Refusals: a model's behaviour on harmful, borderline and benign requests, and the judge of that behaviour."""
