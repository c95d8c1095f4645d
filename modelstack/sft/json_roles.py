"""What each character of written calls is for a model that a grammar guides.

- forced: braces, quotes, `"name":` and the like, where there is one way to go on;
- choice: a call or an abstention, one more call or the end of the list;
- name: of a tool;
- key: of an argument; with it the comma, brace or quote where an optional argument is given or left out;
- value: of an argument; with it what ends one: a quote, the character behind a number, a list's comma or bracket.

The text is the convention's own (`toolcalls.convention`): its form is known, and only its inside is looked at.
Keys and names count as such even where a grammar leaves one way (a required key, the only tool): a model should
write those without one too.
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
"""In the order of their numbers."""
FORCED, CHOICE, KEY, NAME, VALUE, TEXT = range(len(ROLES))
_SCALAR = re.compile(r"true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DECODER = JSONDecoder()
_MORE = ("anyOf", "oneOf", "allOf", "patternProperties")
"""Beside these a node's own properties are not all that it has."""
_TYPE_OF = {"{": "object", "[": "array", '"': "string"}
"""Which type a value's first character means."""


def call_roles(text: str, tools: Sequence[ToolSpec] = ()) -> bytes:
    """Return for each character of written calls the number of its role.

    Args:
        text: As `render_calls` writes it.
        tools: Their schemas tell where an argument can be left out; without one, everywhere.

    Raises:
        ValueError: The text is no such list.
    """
    if text == "[]":
        return bytes([CHOICE, CHOICE])
    scanner = _Scanner(text, {tool.name: tool.parameters for tool in tools})
    scanner.calls()
    return bytes(scanner.roles)


class _Scanner:
    """Walks over the text once; what is not marked is forced."""

    def __init__(self, text: str, schemas: Mapping[str, Any]) -> None:
        self.text = text
        self.schemas = schemas
        self.root: Any = {}
        self.at = 0
        self.roles = bytearray(len(text))  # FORCED is 0

    def calls(self) -> None:
        """Read the list."""
        self.take("[", CHOICE)
        while True:
            start = self.at
            self.take(CALL_PREFIX, FORCED)
            self.roles[start] = CHOICE
            end = self.text.index('"', self.at)  # names hold no quote and no backslash
            name = self.text[self.at : end]
            self.mark(end, NAME)
            self.take(ARGUMENTS_PREFIX, FORCED)
            # Arguments are closed, also those that declare no property.
            self.root = {"properties": {}, **self.schemas[name]} if name in self.schemas else {}
            self.value(self.root)
            self.take("}", FORCED)
            if not self.skip(",", CHOICE):
                break
        self.take("]", CHOICE)
        if self.at != len(self.text):
            raise ValueError(f"text after the calls at character {self.at}: {self.text[self.at :][:20]!r}")

    def value(self, schema: Any) -> None:
        """Read a value of a schema."""
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
            self.roles[self.at] = VALUE  # what follows says that a number is at its end

    def object(self, schema: Mapping[str, Any], opening: int) -> None:
        """Read an object; where its end and another key are both possible, what comes is a choice of keys."""
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
        """Read a list; each comma and its end is a part of the value."""
        self.take("[", opening)
        if self.skip("]", VALUE):
            return
        self.value(schema.get("items", True))
        while not self.skip("]", VALUE):
            self.take(",", VALUE)
            self.value(schema.get("items", True))

    def mark(self, end: int, role: int) -> None:
        """Give the characters up to `end` a role, and go there."""
        self.roles[self.at : end] = bytes([role]) * (end - self.at)
        self.at = end

    def skip(self, piece: str, role: int) -> bool:
        """Step over `piece` if it comes next; a character that was marked as the end of a number stays so."""
        if not self.text.startswith(piece, self.at):
            return False
        first = max(role, self.roles[self.at])
        self.mark(self.at + len(piece), role)
        self.roles[self.at - len(piece)] = first
        return True

    def take(self, piece: str, role: int) -> None:
        """Step over `piece`, or raise ValueError."""
        if not self.skip(piece, role):
            found = self.text[self.at : self.at + 20] or "the end"
            raise ValueError(f"expected {piece!r} at character {self.at} of written calls, found {found!r}")
