"""Structured output: valid, and right, on real JSON Schemas."""
