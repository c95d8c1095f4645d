"""What modelstack raises at somebody's mistake; the message names the value, the rule and the fix."""

from __future__ import annotations


class UserError(ValueError):
    """A caller's or a file's mistake: a configuration that cannot be, a checkpoint that does not fit."""
