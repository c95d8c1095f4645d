"""Traces: one JSONL file per run."""
