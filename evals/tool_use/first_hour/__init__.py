"""Suite "first-hour": 60 requests of a new user over this project's filesystem, SQLite and time servers.

An evaluation of the shipped profiles, never training data; see README.md.
"""
