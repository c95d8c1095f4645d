"""Helpers that import nothing else of agentkit."""
