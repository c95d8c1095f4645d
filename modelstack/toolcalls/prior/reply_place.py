"""Where a reply of calls stands, as far as brackets, quotes and commas tell: for what a prior adds to its tokens.

The grammar knows more, of one engine and one set of tools; this is what any list of calls has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.toolcalls.convention import ARGUMENTS_PREFIX

CLOSING = bytes.maketrans(b"[{", b"]}")
"""Translates what opens to what closes."""
ARGUMENTS_DEPTH = 3
"""Of what is open inside the arguments of a call: the list, the call, the arguments."""
_OPEN_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)\Z', re.DOTALL)
_NUMBER = re.compile(rb"(?<=[:\[,])-?[0-9]*\.?[0-9]*\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reply stands, as far as brackets and quotes tell."""

    opened: bytes = b""
    """The brackets and braces that are open, in order; a list of calls stands in `[`."""
    in_string: bool = False
    escaped: bool = False
    is_calls: bool = True
    """False once the reply is something else: words, an object, or a list that has ended."""


def behind(place: Place, data: bytes) -> tuple[Place, bool | None]:
    """Return where bytes lead, and whether they say that another call follows: True, False, or None for neither.

    The first such decision in `data` counts; the place is the one behind all of it.
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
    """A reply whose tokens come one after the other."""

    def __init__(self, table: Sequence[bytes]) -> None:
        """Stand before the first token.

        Args:
            table: The bytes of each token of the vocabulary.
        """
        self._table = table
        self._seen: list[int] = []
        self._written = bytearray()
        self.place = Place()

    def follow(self, written: Sequence[int]) -> None:
        """Move behind the tokens of a reply; only those that are new are read. A reply drawn again begins anew."""
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
        """Return what closes all that is open but the outermost `depth` brackets."""
        inside = bytes(reversed(self.place.opened[depth:])).translate(CLOSING).decode()
        return ('"' if self.place.in_string else "") + inside

    def calls(self, more: str = "") -> list[dict[str, Any]]:
        """Return the calls so far as if the reply ended here; none where that would be no JSON, or no calls.

        Args:
            more: Text that is added before everything is closed.
        """
        if not self.place.is_calls or self.place.escaped:
            return []
        try:
            calls = json.loads(self._written + more.encode() + self.closing().encode())
        except ValueError:  # a key, or a value that has not begun
            return []
        return [call for call in calls if "name" in call and isinstance(call.get("arguments", {}), dict)]

    def open_text(self) -> bytes | None:
        """Return what is written of a string that is a value of arguments, None anywhere else."""
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
        """Return what is written of a value that may be a number, None where none may be."""
        place = self.place
        if not place.is_calls or place.in_string or len(place.opened) < ARGUMENTS_DEPTH:
            return None
        found = _NUMBER.search(self._written)
        return None if found is None else found.group()

    def may_be_value(self) -> bool:
        """Say whether the next token may be of a parameter's value, or stand behind one, or before the first."""
        if self.open_text() is not None or self._written.endswith(ARGUMENTS_PREFIX.encode()):
            return True
        place = self.place
        return place.is_calls and not place.in_string and len(place.opened) >= ARGUMENTS_DEPTH
