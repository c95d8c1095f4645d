"""Measurements: tool use, refusals, structured output, and speed."""
