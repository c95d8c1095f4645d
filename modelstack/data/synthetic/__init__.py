"""Synthetic documents: a model rewrites real documents by templates, with checks and resume.

Rephrasing and question-answer pairs follow Nemotron-CC (Su et al. 2024, arXiv 2412.02595). This package does not
know the model; the caller passes it as a callable.
"""
