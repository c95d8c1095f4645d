"""Roles of characters in written calls, for a model that is guided by a grammar.

- forced: the grammar allows one continuation: braces, quotes, `"name":` and similar;
- choice: a call or an abstention, another call or the end of the list;
- name: name of a tool;
- key: name of an argument, and the comma, brace or quote at which an optional argument is given or left out;
- value: value of an argument, and the character that ends it: a quote, the one after a number, a list's comma or
  bracket.

The text is written by `toolcalls.convention`, so its outer form is known and only the contents are analysed. Keys
and names have their roles even if the grammar forces them (a required key, the only tool), because a model should
also write them correctly without a grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from json import JSONDecoder
from typing import Any, Literal

from modelstack.toolcalls.convention import ARGUMENTS_PREFIX, CALL_PREFIX, ToolSpec
from modelstack.toolcalls.grammar.pointers import resolve

TokenRole = Literal["forced", "choice", "key", "name", "value", "text"]
ROLES: tuple[TokenRole, ...] = ("forced", "choice", "key", "name", "value", "text")
"""Roles in the order of their numbers."""
FORCED, CHOICE, KEY, NAME, VALUE, TEXT = range(len(ROLES))
_SCALAR = re.compile(r"true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DECODER = JSONDecoder()
_MORE = ("anyOf", "oneOf", "allOf", "patternProperties")
"""Keywords with which a node may have properties besides its own."""
_TYPE_OF = {"{": "object", "[": "array", '"': "string"}
"""Type of a value by its first character."""


def call_roles(text: str, tools: Sequence[ToolSpec] = ()) -> bytes:
    """Return the number of the role of each character of written calls.

    Args:
        text: Calls as written by `render_calls`.
        tools: Tools, whose schemas determine which arguments are optional; all arguments of an unknown tool are.

    Raises:
        ValueError: The text is not a list of calls.
    """
    if text == "[]":
        return bytes([CHOICE, CHOICE])
    scanner = _Scanner(text, {tool.name: tool.parameters for tool in tools})
    scanner.calls()
    return bytes(scanner.roles)


class _Scanner:
    """Scanner that walks over the text once; unmarked characters are forced."""

    def __init__(self, text: str, schemas: Mapping[str, Any]) -> None:
        self.text = text
        self.schemas = schemas
        self.root: Any = {}
        self.at = 0
        self.roles = bytearray(len(text))  # FORCED is 0

    def calls(self) -> None:
        """Read the list of calls."""
        self.take("[", CHOICE)
        while True:
            start = self.at
            self.take(CALL_PREFIX, FORCED)
            self.roles[start] = CHOICE
            end = self.text.index('"', self.at)  # names contain no quote and no backslash
            name = self.text[self.at : end]
            self.mark(end, NAME)
            self.take(ARGUMENTS_PREFIX, FORCED)
            # No other argument is allowed, even if a tool declares no property.
            self.root = {"properties": {}, **self.schemas[name]} if name in self.schemas else {}
            self.value(self.root)
            self.take("}", FORCED)
            if not self.skip(",", CHOICE):
                break
        self.take("]", CHOICE)
        if self.at != len(self.text):
            raise ValueError(f"text after the calls at character {self.at}: {self.text[self.at :][:20]!r}")

    def value(self, schema: Any) -> None:
        """Read a value with a schema."""
        schema = resolve(schema, self.root)
        schema = schema if isinstance(schema, Mapping) else {}
        first = self.text[self.at : self.at + 1]
        declared = schema.get("type", "object" if "properties" in schema else None)
        opening = FORCED if declared == _TYPE_OF.get(first) else VALUE
        if first == "{":
            self.object(schema, opening)
        elif first == "[":
            self.array(schema, opening)
        elif first == '"':
            end = _DECODER.raw_decode(self.text, self.at)[1]
            self.take('"', opening)
            self.mark(end, VALUE)
        else:
            found = _SCALAR.match(self.text, self.at)
            if found is None:
                raise ValueError(f"no JSON value at character {self.at}: {self.text[self.at :][:20]!r}")
            self.mark(found.end(), VALUE)
            self.roles[self.at] = VALUE  # the character after a number decides that it ends

    def object(self, schema: Mapping[str, Any], opening: int) -> None:
        """Read an object. If both the end and another key are possible, the character that decides is a key."""
        properties = schema.get("properties", {})
        is_open = any(key in schema for key in _MORE)
        is_open = is_open or bool(schema.get("additionalProperties", "properties" not in schema))
        required = set(schema.get("required", ()))
        left = [*properties]
        self.take("{", opening)
        is_first = True
        while True:
            may_end = not required.intersection(left)
            role = KEY if may_end and (is_open or left) else FORCED
            if self.skip("}", role):
                return
            if not is_first:
                self.take(",", role)
            key, end = _DECODER.raw_decode(self.text, self.at)
            self.take('"', role if is_first else FORCED)
            is_first = False
            self.mark(end - 1, KEY)
            self.take('":', FORCED)
            self.value(properties.get(key, True))
            left = left[left.index(key) + 1 :] if key in left else left

    def array(self, schema: Mapping[str, Any], opening: int) -> None:
        """Read a list; its commas and its end are part of the value."""
        self.take("[", opening)
        if self.skip("]", VALUE):
            return
        self.value(schema.get("items", True))
        while not self.skip("]", VALUE):
            self.take(",", VALUE)
            self.value(schema.get("items", True))

    def mark(self, end: int, role: int) -> None:
        """Set the role of the characters up to `end` and move there."""
        self.roles[self.at : end] = bytes([role]) * (end - self.at)
        self.at = end

    def skip(self, piece: str, role: int) -> bool:
        """Move past `piece` if it comes next and return whether it does.

        A character that was marked as the end of a number keeps that role.
        """
        if not self.text.startswith(piece, self.at):
            return False
        first = max(role, self.roles[self.at])
        self.mark(self.at + len(piece), role)
        self.roles[self.at - len(piece)] = first
        return True

    def take(self, piece: str, role: int) -> None:
        """Move past `piece`, or raise ValueError."""
        if not self.skip(piece, role):
            found = self.text[self.at : self.at + 20] or "the end"
            raise ValueError(f"expected {piece!r} at character {self.at} of written calls, found {found!r}")
