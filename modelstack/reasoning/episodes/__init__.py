"""Conversations in which the calls of a policy run, and it reads their results."""
