"""Lists of a server that come in pages: resources, templates, prompts.

Every list ends, whatever the server sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agentkit.basics.hidden import is_plain, strip_prose
from agentkit.errors import MCPRequestError
from agentkit.mcp.listing import MAX_DESCRIPTION_CHARS, MAX_LISTING_BYTES, MAX_TITLE_CHARS

T = TypeVar("T")

MAX_ITEMS = 10_000
"""Resources, templates or prompts of one server."""
MAX_URI_CHARS = 8_192
"""Characters of a URI; a listed resource with a longer one is left out."""
MAX_NAME_CHARS = 1_000
"""Characters of a name, which a person reads and which is sent back as it is."""


async def every_page(
    page: Callable[[str | None], Awaitable[tuple[Sequence[Any], str | None]]], max_pages: int, what: str
) -> list[Any]:
    """Return the items of all pages; `page` takes a cursor, and returns items and the next cursor.

    Raises:
        MCPRequestError: the list does not end within the limits.
    """
    items: list[Any] = []
    cursors: set[str] = set()
    cursor: str | None = None
    n_bytes = 0
    for n_pages in range(1, max_pages + 1):
        found, cursor = await page(cursor)
        items += found
        n_bytes += sum(len(each.model_dump_json()) for each in found)
        if len(items) > MAX_ITEMS or n_bytes > MAX_LISTING_BYTES:
            raise MCPRequestError(
                f"{what}: {len(items):,} items of {n_bytes:,} bytes after {n_pages} pages; at most {MAX_ITEMS:,} "
                f"items and {MAX_LISTING_BYTES:,} bytes are taken."
            )
        if cursor is None:
            return items
        if cursor in cursors:
            raise MCPRequestError(
                f"{what}: the server repeats a cursor on page {n_pages}, so the list never ends."
            )
        cursors.add(cursor)
    raise MCPRequestError(
        f"{what}: the list goes on after max_pages={max_pages} pages; raise it if that is right."
    )


def is_usable(name: str, max_chars: int) -> bool:
    """Return whether a name or URI may be shown and sent back: not too long, and without hidden characters."""
    return 0 < len(name) <= max_chars and is_plain(name)


def prose(text: str | None, max_chars: int = MAX_DESCRIPTION_CHARS) -> str:
    """Return a server's prose without hidden characters, cut to `max_chars`."""
    cleaned = strip_prose(text or "")[0]
    return cleaned if len(cleaned) <= max_chars else cleaned[:max_chars] + "..."


def title(text: str | None) -> str | None:
    """Return a server's title without hidden characters, cut; None if there is none."""
    return prose(text, MAX_TITLE_CHARS) or None
