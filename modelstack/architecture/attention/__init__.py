"""Attention kinds, one per file; `registry` maps layer types to them."""
