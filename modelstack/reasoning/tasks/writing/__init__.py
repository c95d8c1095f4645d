"""Generates files of verifiable tasks from a seed: arithmetic and puzzles, strict JSON, calls with effects."""
