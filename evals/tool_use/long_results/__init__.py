"""Suite "long-results": 50 questions on ten long documents that the filesystem server returns as tool results.

An evaluation of the shipped profiles, never training data; see README.md.
"""
