"""Conversations made shorter, and conversations made whole."""
