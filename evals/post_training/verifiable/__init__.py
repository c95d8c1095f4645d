"""Reinforcement on verifiable tasks with the embedded model: before, after, and curves of every seed."""
