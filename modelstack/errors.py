"""Errors caused by users; each message names the given value, the rule and the fix."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake in a call or a file, for example an invalid config or a checkpoint of another model."""
