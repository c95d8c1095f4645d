"""Optimizers: which parameter is moved how, AdamW, and Muon."""
