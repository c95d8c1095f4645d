"""Merges two adapters, each with one skill, by five methods, and measures both skills of each result."""
