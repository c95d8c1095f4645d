"""The position in a reply of calls, derived from brackets, quotes and commas alone.

Priors need no more than the structure that every list of calls has; the grammar of one engine and tool set knows
more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.toolcalls.convention import ARGUMENTS_PREFIX

CLOSING = bytes.maketrans(b"[{", b"]}")
"""Translation of opening brackets to closing ones."""
ARGUMENTS_DEPTH = 3
"""Number of open brackets inside the arguments of a call: of the list, the call and the arguments."""
_OPEN_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)\Z', re.DOTALL)
_NUMBER = re.compile(rb"(?<=[:\[,])-?[0-9]*\.?[0-9]*\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a reply, derived from brackets and quotes."""

    opened: bytes = b""
    """The open brackets and braces, in order; a list of calls begins with `[`."""
    in_string: bool = False
    escaped: bool = False
    is_calls: bool = True
    """False once the reply is not a list of calls: words, an object, or a list that has ended."""


def behind(place: Place, data: bytes) -> tuple[Place, bool | None]:
    """Return the position after some bytes, and their decision about another call, if any.

    The decision is True, False or None. Only the first one in `data` counts; the position is the one after all
    bytes.
    """
    if not data:
        return place, None
    opened, in_string, escaped = bytearray(place.opened), place.in_string, place.escaped
    goes_on: bool | None = None
    for at, byte in enumerate(data):
        if not place.is_calls or (not opened and (place.opened or at or byte != ord("["))):
            return Place(is_calls=False), goes_on
        if escaped:
            escaped = False
        elif in_string:
            escaped = byte == ord("\\")
            in_string = byte != ord('"')
        elif byte == ord('"'):
            in_string = True
        elif byte in b"[{":
            opened.append(byte)
        elif byte in b"]}":
            if opened[-1:].translate(CLOSING) != bytes([byte]):
                return Place(is_calls=False), goes_on
            if opened == b"[" and goes_on is None:
                goes_on = False
            opened.pop()
        elif byte == ord(",") and opened == b"[" and goes_on is None:
            goes_on = True
    return Place(bytes(opened), in_string, escaped, is_calls=bool(opened)), goes_on


class FollowedReply:
    """A reply read token by token."""

    def __init__(self, table: Sequence[bytes]) -> None:
        """Initialise before the first token.

        Args:
            table: The bytes of each token of the vocabulary.
        """
        self._table = table
        self._seen: list[int] = []
        self._written = bytearray()
        self.place = Place()

    def follow(self, written: Sequence[int]) -> None:
        """Read the new tokens of a reply; if earlier tokens differ, the reply is read again from its beginning."""
        n = len(self._seen)
        if list(written[:n]) != self._seen:
            self._seen, self.place, n = [], Place(), 0
            self._written.clear()
        new = list(written[n:])
        data = b"".join(self._table[token] for token in new)
        self.place, _ = behind(self.place, data)
        self._written += data
        self._seen += new

    @property
    def written(self) -> bytes:
        """The bytes so far."""
        return bytes(self._written)

    def closing(self, depth: int = 0) -> str:
        """Return the text that closes all brackets except the outermost `depth`."""
        inside = bytes(reversed(self.place.opened[depth:])).translate(CLOSING).decode()
        return ('"' if self.place.in_string else "") + inside

    def calls(self, more: str = "") -> list[dict[str, Any]]:
        """Return the calls so far as if the reply ended here; empty if that would not be calls in JSON.

        Args:
            more: Text that is added before everything is closed.
        """
        if not self.place.is_calls or self.place.escaped:
            return []
        try:
            calls = json.loads(self._written + more.encode() + self.closing().encode())
        except ValueError:  # inside a key, or before a value
            return []
        return [call for call in calls if "name" in call and isinstance(call.get("arguments", {}), dict)]

    def open_text(self) -> bytes | None:
        """Return the text so far of a string inside arguments; None at any other position."""
        place = self.place
        if not place.is_calls or not place.in_string or place.escaped or len(place.opened) < ARGUMENTS_DEPTH:
            return None
        found = _OPEN_STRING.search(self._written)
        if found is None:
            return None
        before = bytes(self._written[found.start() - 1 : found.start()])
        is_value = before == b":" or place.opened.endswith(b"[")
        return found.group(1) if is_value else None

    def open_number(self) -> bytes | None:
        """Return the text so far of a value that may be a number; None at any other position."""
        place = self.place
        if not place.is_calls or place.in_string or len(place.opened) < ARGUMENTS_DEPTH:
            return None
        found = _NUMBER.search(self._written)
        return None if found is None else found.group()

    def may_be_value(self) -> bool:
        """Return whether the next token may belong to a parameter's value, follow one, or precede the first."""
        if self.open_text() is not None or self._written.endswith(ARGUMENTS_PREFIX.encode()):
            return True
        place = self.place
        return place.is_calls and not place.in_string and len(place.opened) >= ARGUMENTS_DEPTH
