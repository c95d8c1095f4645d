"""Marks of the prompt cache: where Anthropic's API keeps the evaluated prompt for the next request.

The API caches what stands before a mark, looks for an earlier entry at most 20 blocks back, and takes four marks
(guide "Prompt caching"). They stand at the end of the tools, of the system prompt, of the last user's message, and
of the one before it: the entry that the previous request wrote is found however many calls lie in between.
"""

from __future__ import annotations

from typing import Any, Literal

PromptCacheTTL = Literal["5m", "1h"]
"""Time to live of an entry; each use renews it."""
N_MARKED_MESSAGES = 2


def mark_cache_points(body: dict[str, Any], ttl: PromptCacheTTL) -> None:
    """Add `cache_control` to the blocks of a request's body; the lists and blocks are changed in place."""
    mark = {"type": "ephemeral", **({"ttl": ttl} if ttl != "5m" else {})}
    for name in ("tools", "system"):
        if blocks := body.get(name):
            blocks[-1]["cache_control"] = mark
    user_messages = [message for message in body["messages"] if message["role"] == "user"]
    for message in user_messages[-N_MARKED_MESSAGES:]:
        message["content"][-1]["cache_control"] = mark
