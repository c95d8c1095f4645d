"""Optimizers: grouping of parameters, AdamW, and Muon."""
