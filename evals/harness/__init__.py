"""Runs suites on inspect-ai: journal, resume, summary and comparison of results."""
