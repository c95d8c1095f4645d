"""Shared parts of learning from sampled replies: tasks, prompts in order, samplers, judges, held-back answers."""
