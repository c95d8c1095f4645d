"""How much a snippet may use, and what is shown of it: pure rules, no I/O, no MCP."""

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
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MAX_DEPTH = 40
_MAX_ITEMS = 2_000


@dataclass(frozen=True)
class Limits:
    """Caps of one call."""

    seconds: float = 5.0
    """Of computing."""
    memory_bytes: int = 64 * 1024 * 1024
    output_chars: int = 16_000
    """Of what is printed, and of the value: about 4,000 tokens each."""
    max_sessions: int = 8
    """Kept at once; each has a process of its own."""
    function_calls: int = 200
    """Of the functions that the embedding program passes in, by one snippet."""


def check_code(code: str) -> str:
    """Return code that is worth running.

    Raises:
        ToolFailure: it is empty or too long.
    """
    if not code.strip():
        raise ToolFailure("The code is empty. Write Python, as print(sum(range(10))).")
    if len(code) > MAX_CODE_CHARS:
        raise ToolFailure(f"The code has {len(code)} characters; at most {MAX_CODE_CHARS} are run.")
    return code


def check_session(name: str) -> str:
    """Return a session's name.

    Raises:
        ToolFailure: it has other than letters, digits, `_` and `-`, or is too long.
    """
    if not _SESSION.fullmatch(name):
        raise ToolFailure(f"The session {name!r} needs 1 to 40 letters, digits, '_' or '-', as 'main'.")
    return name


class Printed:
    """What a snippet printed, up to a length."""

    def __init__(self, max_chars: int) -> None:
        """Keep the first `max_chars` characters."""
        self._left = max_chars
        self._pieces: list[str] = []
        self.n_chars = 0
        """Of all that was printed."""

    def add(self, stream: str, text: str) -> None:
        """Take more of it; errors and output come in the order in which they were written."""
        self.n_chars += len(text)
        self._pieces.append(text[: self._left])
        self._left -= len(self._pieces[-1])

    @property
    def text(self) -> str:
        """What was kept."""
        return visible("".join(self._pieces))


def shown(text: str, max_chars: int) -> tuple[str, bool]:
    """Return as much of a text as is shown, and whether it was cut; what is beyond is not looked at."""
    return visible(text[:max_chars]), len(text) > max_chars


def json_value(value: object, max_chars: int) -> Any:
    """Return a value as JSON data; None where it has none, or none that is short enough.

    Tuples and sets become lists; what holds itself, is too deep, or is of another type has no JSON.
    """
    try:
        data = _Data(max_chars).of(value, 0)
        return data if len(json.dumps(data)) <= max_chars else None
    except (TypeError, ValueError, RecursionError):
        return None


class _Data:
    """JSON data of one value, as long as they are short enough."""

    def __init__(self, max_chars: int) -> None:
        self._n_left = max_chars
        """Characters that the rest may take; each value takes one."""

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
