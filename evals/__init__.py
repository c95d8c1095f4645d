"""Evaluations: tool use, refusals, injection, structured output, language, post-training, data, and speed."""
