"""Limits on a message's size and structure, because a message of few bytes can cost much memory and time.

A JSON list takes three bytes of text and a hundred in memory. A content block takes 31 bytes of text, and its
checks take 4 us, three times over, while the event loop waits. So the objects and lists of a message are counted
before it is parsed, and the members of its lists before they are checked one by one.
"""

from __future__ import annotations

from typing import Any, cast

MAX_MESSAGE_BYTES = 32 << 20
"""Largest message of a server: a line on its stdout, a body over HTTP. A tool's result is cut to far less."""
MAX_CONTAINERS = 500_000
"""Objects and lists in one message, counted by their brackets; 100 MB of memory at worst."""

MAX_ITEMS = 10_000
"""Members of all lists in a message that mcp checks one by one: content blocks, tools, icons; 0.1 s."""

_FREE_FORM = frozenset(
    {"structuredContent", "inputSchema", "outputSchema", "requestedSchema", "_meta", "arguments", "data"}
)
"""Fields whose content mcp does not check."""


def n_containers(data: bytes) -> int:
    """Return an upper bound on the objects and lists in a JSON text; brackets in strings count, too."""
    return data.count(b"{") + data.count(b"[")


def has_too_many_items(value: Any) -> bool:
    """Return whether the lists of a result, or of a request's parameters, have more than `MAX_ITEMS` members."""
    waiting: list[Any] = [value]
    n_items = 0
    while waiting and n_items <= MAX_ITEMS:
        inner = waiting.pop()
        if isinstance(inner, dict):
            fields = cast("dict[str, Any]", inner).items()
            waiting += [field for name, field in fields if name not in _FREE_FORM]
        elif isinstance(inner, list):
            items = cast("list[Any]", inner)
            n_items += len(items)
            waiting += items if n_items <= MAX_ITEMS else ()
    return n_items > MAX_ITEMS
