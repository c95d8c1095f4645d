"""Questions about long tool results: 50 questions on ten documents that our filesystem server reads out.

A measure of the shipped profiles, never training data: see README.md.
"""
