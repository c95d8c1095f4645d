"""Checks what an endpoint really can do: probes as data, pure judges, and advice from the findings."""
