"""Prompt injection suites: tool results that contain instructions."""
