"""Reinforcement on verifiable tasks with the embedded model: before, after, curves of every seed."""
