"""Benchmarks: one script each; every script prints its own table."""
