"""Structured output: validity and correctness on real JSON Schemas."""
