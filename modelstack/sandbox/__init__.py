"""Isolated execution and testing of programs that a model wrote."""
