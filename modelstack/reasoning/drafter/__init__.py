"""Training of a module that drafts tokens for a frozen model (EAGLE, FastMTP)."""
