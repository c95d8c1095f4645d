"""Shared parts of learning from sampled replies: tasks, prompts, samplers, judges, held-back measurements."""
