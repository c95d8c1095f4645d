"""Errors caused by users; each message names the given value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class UserError(ValueError):
    """A user's mistake in a call or a file, for example an invalid config or a checkpoint of another model."""


def reason_of(fault: Mapping[str, Any]) -> str:
    """Return the message of an entry of pydantic's `ValidationError.errors()`, without the name of its type."""
    return str(fault["msg"]).removeprefix("Value error, ")


def first_difference(error: Exception) -> str:
    """Return the head and the first entry of torch's message about a state that does not fit."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
