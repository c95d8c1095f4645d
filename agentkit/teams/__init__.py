"""Agents that work together: agents as tools, and hand-offs."""
