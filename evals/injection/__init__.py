"""Prompt injection: tool results that carry instructions."""
