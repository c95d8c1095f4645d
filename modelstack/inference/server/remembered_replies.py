"""The tokens of replies that were written here, for the next requests of their conversations.

A client sends a conversation as text. The text of a reply may be encoded to other tokens than the model wrote, and
then the cache of that turn is lost. So the tokens of the latest replies are kept, by prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

MOST_REPLIES = 1_024
"""Number of replies kept; one of 500 tokens takes 4 KB."""


@dataclass(frozen=True, slots=True)
class RememberedReply:
    """Text of an assistant's turn as its tokens were written."""

    text: str
    """Text of the turn as `Manner.said` writes it."""
    ids: array[int]
    conversation: str
    """Name of the conversation in the engine's cache."""


class RememberedReplies:
    """The latest replies by the tokens of their prompts. Not thread-safe."""

    def __init__(self, most: int = MOST_REPLIES) -> None:
        """Keep `most` replies."""
        self._most = most
        self._replies: OrderedDict[bytes, RememberedReply] = OrderedDict()

    def find(self, prompt_ids: Sequence[int], text: str) -> RememberedReply | None:
        """Return the reply with this text to a prompt; None if it is not known."""
        key = _key(prompt_ids)
        found = self._replies.get(key)
        if found is None or found.text != text:
            return None
        self._replies.move_to_end(key)
        return found

    def add(self, prompt_ids: Sequence[int], text: str, ids: Sequence[int], conversation: str) -> None:
        """Keep a reply; another one to the same prompt is forgotten."""
        self._replies[_key(prompt_ids)] = RememberedReply(text, array("i", ids), conversation)
        if len(self._replies) > self._most:
            self._replies.popitem(last=False)


def _key(prompt_ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("i", prompt_ids).tobytes(), digest_size=16).digest()
