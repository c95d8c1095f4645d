"""Calls on examples of the caller's own."""
