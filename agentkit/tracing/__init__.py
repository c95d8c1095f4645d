"""Traces: one JSONL file a run."""
