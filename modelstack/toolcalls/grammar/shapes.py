"""What a reply may look like, as a small graph: the plan that the recogniser walks.

A shape is the language of one JSON value, or of a whole reply. `text` is a shortest instance and `cost` its
price in tokens; `shape_builder` makes shapes from schemas and fills both in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelstack.toolcalls.convention import MAX_DIGITS
from modelstack.toolcalls.grammar.regex import Regex

UNREACHABLE = 1 << 30
"""Price of a shape that has no finite instance (yet)."""
Price = Callable[[str], int]
"""Gives the tokens that a text takes."""


@dataclass(frozen=True, slots=True)
class LargestSteps:
    """The most that one token can add to the price of completing a reply, in tokens."""

    naming: int
    """While a tool is being chosen: the dearest call may be the one."""
    inside: int
    """Anywhere else: an optional property, an item, the dearer branch of a union, one more call."""


@dataclass(eq=False, slots=True)
class Shape:
    """The common part; a bare one matches nothing."""

    cost: int = UNREACHABLE
    text: str = ""


@dataclass(eq=False, slots=True)
class Literals(Shape):
    """One of a few JSON texts."""

    texts: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Strings(Shape):
    """A text in its delimiters, by length in characters and pattern."""

    least: int = 0
    most: int | None = None
    regex: Regex | None = None
    opening: str = '"'
    closing: str = '"'
    """One character, unless the text is raw."""
    is_raw: bool = False
    """Whether it stands as it is: without escapes, and without what closes it."""
    spelled: str = ""
    """The name of `closing` where that is a mark; a raw text holds neither."""


@dataclass(eq=False, slots=True)
class Numbers(Shape):
    """A JSON number; the bounds only guide how one is completed."""

    integer: bool = False
    bounds: Mapping[str, Any] = field(default_factory=dict)
    most_digits: int = MAX_DIGITS
    """Digits before the point."""


@dataclass(eq=False, slots=True)
class Arrays(Shape):
    """A JSON array."""

    prefix: tuple[Shape, ...] = ()
    item: Shape | None = None
    least: int = 0
    most: int | None = None
    comma: str = ","

    def at(self, index: int) -> Shape | None:
        """Return the shape of the item at `index`, None where there can be none."""
        if self.most is not None and index >= self.most:
            return None
        return self.prefix[index] if index < len(self.prefix) else self.item


@dataclass(eq=False, slots=True)
class Property:
    """One declared property of an object."""

    name: str
    key: str
    """The text `"name":` as it is written."""
    shape: Shape
    required: bool


@dataclass(eq=False, slots=True)
class Objects(Shape):
    """A JSON object: declared properties, in this order or in any, then others."""

    properties: tuple[Property, ...] = ()
    extra: Shape | None = None
    patterns: tuple[tuple[Regex, Shape], ...] = ()
    ordered: bool = True
    comma: str = ","
    colon: str = ":"
    """Behind the closing quote of a key; `Property.key` ends with it."""

    def shape_of_extra(self, name: str) -> Shape | None:
        """Return the shape of a property that is not declared, None where it is not allowed."""
        for regex, shape in self.patterns:
            if regex.search(name):
                return shape
        return self.extra


@dataclass(eq=False, slots=True)
class Parameters(Shape):
    """The parameters of a call, or the members of an object that is written like them, one behind the other.

    Those that are declared come in this order; others may come anywhere between them.
    """

    properties: tuple[Property, ...] = ()
    separator: str = ""
    closing: str = ""
    opening: str = ""
    extra: Shape | None = None
    """Value of one that is not declared; None: there are none."""
    key_end: str = ""
    """Behind the name of one that is not declared."""

    @property
    def names(self) -> frozenset[str]:
        """Names that are declared."""
        return frozenset(one.name for one in self.properties)


@dataclass(eq=False, slots=True)
class Ended(Shape):
    """A value with a fixed text behind it."""

    item: Shape = field(default_factory=Shape)
    end: str = ""


@dataclass(eq=False, slots=True)
class Either(Shape):
    """One of several shapes."""

    options: tuple[Shape, ...] = ()


@dataclass(eq=False, slots=True)
class Tagged(Shape):
    """A fixed text that selects what follows, and a fixed end: one call of some tool, or the result."""

    options: tuple[tuple[str, Shape], ...] = ()
    end: str = "}"
    is_call: bool = False
    n_behind_name: int = 0
    """Characters of an option's text behind a tool's name; the first of them ends the name."""


@dataclass(eq=False, slots=True)
class Calls(Shape):
    """One call or more."""

    opening: str = ""
    item: Tagged = field(default_factory=Tagged)
    separator: str = ""
    closing: str = ""
    trailing: str = ""
    """May follow `closing` while another call may."""
    most: int = 1


@dataclass(eq=False, slots=True)
class Text(Shape):
    """A free text answer, which may lead to calls."""

    not_first: str = ""
    not_begun: tuple[str, ...] = ()
    trigger: str = ""
    """With this, words turn into calls; empty: never."""
    spelled: str = ""
    """The name of `trigger` where that is a mark; words hold neither."""
    opening: str = ""
    """What a call's opening has behind `trigger`."""
    calls: Calls | None = None


@dataclass(eq=False, slots=True)
class Response(Either):
    """The start of a reply."""
