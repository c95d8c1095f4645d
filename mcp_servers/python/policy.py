"""Limits of a snippet and of its output: pure rules without I/O or MCP."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import visible

MAX_CODE_CHARS = 50_000
"""Characters of one snippet."""
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MAX_DEPTH = 40
_MAX_ITEMS = 2_000


@dataclass(frozen=True)
class Limits:
    """Limits of one call."""

    seconds: float = 5.0
    """Seconds of execution."""
    memory_bytes: int = 64 * 1024 * 1024
    """Memory of one snippet or session."""
    output_chars: int = 16_000
    """Characters of printed output, and of the value: about 4,000 tokens each."""
    max_sessions: int = 8
    """Sessions kept at once; each has its own process."""
    function_calls: int = 200
    """Calls of the embedding program's functions by one snippet."""


def check_code(code: str) -> str:
    """Return code that is not empty or too long.

    Raises:
        ToolFailure: The code is empty or too long.
    """
    if not code.strip():
        raise ToolFailure("The code is empty. Write Python, as print(sum(range(10))).")
    if len(code) > MAX_CODE_CHARS:
        raise ToolFailure(f"The code has {len(code)} characters; at most {MAX_CODE_CHARS} are run.")
    return code


def check_session(name: str) -> str:
    """Return a valid session name.

    Raises:
        ToolFailure: The name contains other characters than letters, digits, `_` and `-`, or is too long.
    """
    if not _SESSION.fullmatch(name):
        raise ToolFailure(f"The session {name!r} needs 1 to 40 letters, digits, '_' or '-', as 'main'.")
    return name


class Printed:
    """Output of a snippet, kept up to a maximum length."""

    def __init__(self, max_chars: int) -> None:
        """Keep the first `max_chars` characters."""
        self._left = max_chars
        self._pieces: list[str] = []
        self.n_chars = 0
        """Characters printed in total."""

    def add(self, stream: str, text: str) -> None:
        """Append output; errors and output keep the order in which they were written."""
        self.n_chars += len(text)
        self._pieces.append(text[: self._left])
        self._left -= len(self._pieces[-1])

    @property
    def text(self) -> str:
        """Output that was kept."""
        return visible("".join(self._pieces))


def shown(text: str, max_chars: int) -> tuple[str, bool]:
    """Return the beginning of a text that is shown, and whether it was cut; the rest is not read."""
    return visible(text[:max_chars]), len(text) > max_chars


def json_value(value: object, max_chars: int) -> Any:
    """Return a value as JSON data; None if it has no JSON form that is short enough.

    Tuples and sets become lists; values that contain themselves, are too deep, or have another type have no JSON
    form.
    """
    try:
        data = _Data(max_chars).of(value, 0)
        return data if len(json.dumps(data)) <= max_chars else None
    except (TypeError, ValueError, RecursionError):
        return None


class _Data:
    """Converts one value to JSON data of bounded size."""

    def __init__(self, max_chars: int) -> None:
        self._n_left = max_chars
        """Characters left for the rest; each value takes at least one."""

    def of(self, value: object, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        self._n_left -= len(value) if isinstance(value, str) else 1
        if self._n_left < 0:
            raise ValueError("too long")
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str):
            return visible(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("no JSON number")
            return value
        if isinstance(value, list | tuple | set | frozenset):
            if len(value) > _MAX_ITEMS:
                raise ValueError("too long")
            return [self.of(item, depth + 1) for item in value]
        if isinstance(value, Mapping):
            if len(value) > _MAX_ITEMS or not all(isinstance(key, str) for key in value):
                raise ValueError("no JSON object")
            return {visible(key): self.of(item, depth + 1) for key, item in value.items()}
        raise TypeError(f"no JSON for {type(value).__name__}")
