"""Coverage of schema keywords: enforced while decoding, checked afterwards, or refused.

The tables of unsupported keywords were found by driving the engines; test_schema_coverage.py does so again.
llguidance refuses these keywords itself. For lm-format-enforcer they are the keywords that the recogniser does not
decide. No keyword is relaxed silently: it is enforced, or checked after decoding because the caller chose
`unsupported="check"`, or refused by name and JSON pointer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from modelstack.toolcalls.grammar.formats import FORMATS
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError, get, join, split, target
from modelstack.toolcalls.grammar.regex import RegexError, compile_regex
from modelstack.toolcalls.grammar.schemas import (
    CONSTRAINTS,
    LISTS_OF_SCHEMAS,
    MAPS_OF_SCHEMAS,
    SINGLE_SCHEMAS,
    exclusive,
)

EngineName = Literal["llguidance", "lm-format-enforcer"]

_NEITHER = {
    "uniqueItems": "validate after decoding, or use an enum of whole arrays",
    "not": "say what is allowed instead: enum, pattern, or a narrower type",
    "if": "split into an anyOf of closed objects",
    "then": "split into an anyOf of closed objects",
    "else": "split into an anyOf of closed objects",
    "dependentRequired": "split into an anyOf of closed objects",
    "dependentSchemas": "split into an anyOf of closed objects",
    "dependencies": "split into an anyOf of closed objects",
    "propertyNames": "use patternProperties with additionalProperties: false (llguidance)",
    "contains": "use prefixItems",
    "minContains": "use prefixItems",
    "maxContains": "use prefixItems",
    "unevaluatedItems": "use items: false",
    "unevaluatedProperties": "use additionalProperties",
    "$dynamicRef": "use $ref",
}
_CHARACTER_GRAMMAR = {
    "minimum": "use the llguidance engine, or an enum",
    "maximum": "use the llguidance engine, or an enum",
    "exclusiveMinimum": "use the llguidance engine, or an enum",
    "exclusiveMaximum": "use the llguidance engine, or an enum",
    "multipleOf": "use the llguidance engine, or an enum",
    "minProperties": "list the properties as required",
    "maxProperties": "declare only the properties that may occur",
    "patternProperties": "use the llguidance engine, or declare the properties",
}
UNSUPPORTED: dict[EngineName, dict[str, str]] = {
    "llguidance": _NEITHER,
    "lm-format-enforcer": {**_NEITHER, **_CHARACTER_GRAMMAR},
}


@dataclass(frozen=True, slots=True, order=True)
class KeywordUse:
    """A keyword at one place of a schema."""

    tool: str
    """Name of the tool; empty for the answer's schema."""
    pointer: str
    """JSON pointer of the keyword inside that schema."""
    keyword: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """The treatment of each constraint in a format's schemas."""

    engine: EngineName
    enforced: tuple[KeywordUse, ...] = ()
    """Constraints that the masks enforce."""
    checked: tuple[KeywordUse, ...] = ()
    """Constraints that the masks ignore; `CompiledGrammar.violations` checks them."""
    annotations: tuple[KeywordUse, ...] = ()
    """Formats that are not in the table and therefore constrain nothing."""


class UnsupportedSchemaError(ValueError):
    """A schema has a keyword that an engine cannot enforce."""

    def __init__(
        self,
        keyword: str,
        pointer: str,
        engine: str,
        hint: str,
        *,
        tool: str = "",
        refused: tuple[KeywordUse, ...] = (),
    ) -> None:
        """Name the keyword, its place and a way around it."""
        where = f"tool {tool!r}" if tool else "the answer's schema"
        more = f" ({len(refused) - 1} more)" if len(refused) > 1 else ""
        super().__init__(f"{engine} cannot enforce {keyword!r} at {pointer or '/'} of {where}{more}: {hint}.")
        self.keyword = keyword
        self.pointer = pointer
        self.engine = engine
        self.hint = hint
        self.tool = tool
        self.refused = refused


def keywords(schema: Any, tool: str) -> Iterator[tuple[KeywordUse, Any, Any]]:
    """Yield every constraint that is reachable in a schema, with its value and the node that holds it."""
    seen: set[str] = set()
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        pointer, node = waiting.pop()
        if not isinstance(node, Mapping) or pointer in seen:
            continue
        seen.add(pointer)
        reference = node.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            # The node itself, not the target of its own reference: pointers must lead to the node they name.
            with suppress(SchemaReferenceError):  # a dangling reference is refused when the schema is folded
                waiting.append((unquote(reference[1:]), target(reference, schema)))
        for key, value in node.items():
            if key in CONSTRAINTS or key == "dependencies":
                yield KeywordUse(tool, join(pointer, key), key), value, node
            if key in MAPS_OF_SCHEMAS and isinstance(value, Mapping):
                waiting += [(join(pointer, key, name), sub) for name, sub in value.items()]
            elif key in LISTS_OF_SCHEMAS and isinstance(value, list | tuple):
                waiting += [(join(pointer, key, i), sub) for i, sub in enumerate(value)]
            elif key in SINGLE_SCHEMAS:
                waiting.append((join(pointer, key), value))


def unsupported(schema: Any, tool: str, engine: EngineName) -> list[tuple[KeywordUse, str]]:
    """Return the constraints that `engine` is known not to enforce, each with a hint, sorted by pointer."""
    found = []
    for use, value, node in keywords(schema, tool):
        hint = _why_not(use.keyword, value, node, schema, engine)
        if hint:
            found.append((use, hint))
    return sorted(found)


def unenforced_formats(schema: Any, tool: str) -> list[KeywordUse]:
    """Return formats that constrain nothing."""
    return [use for use, value, _ in keywords(schema, tool) if use.keyword == "format" and value not in FORMATS]


def without(schema: Any, uses: list[KeywordUse]) -> Any:
    """Return a copy without these keywords; a `oneOf` becomes the weaker `anyOf`."""
    result = copy.deepcopy(schema)
    # Deepest first: removing a keyword also removes the keywords inside it, and renaming moves them.
    for use in sorted(uses, key=lambda use: -use.pointer.count("/")):
        parent = get(result, use.pointer.rsplit("/", 1)[0])
        key = split(use.pointer)[-1]
        if key not in parent:
            continue
        value = parent.pop(key)
        if use.keyword == "oneOf" and "anyOf" not in parent:
            parent["anyOf"] = value
        if use.keyword == "if":
            parent.pop("then", None)
            parent.pop("else", None)
    return result


def _why_not(keyword: str, value: Any, node: Any, root: Any, engine: EngineName) -> str:
    """Return a hint if the keyword cannot be enforced; empty if it can."""
    if keyword == "uniqueItems" and value is False:
        return ""
    if keyword == "unevaluatedProperties" and value is False:
        return ""
    if keyword in UNSUPPORTED[engine]:
        return UNSUPPORTED[engine][keyword]
    if keyword == "oneOf":
        branches = list(value)
        if not all(exclusive(branches[i], branches[j], root) for i in range(len(branches)) for j in range(i)):
            return "use anyOf, or give each branch a required constant property that tells it apart"
    if keyword == "pattern" and engine == "lm-format-enforcer":
        try:
            compile_regex(value)
        except RegexError as error:
            return f"use a pattern that runs in linear time; {error}"
    if keyword == "format" and value in FORMATS and "pattern" in node and engine == "lm-format-enforcer":
        return "use either format or pattern"
    return ""
