"""The possible texts of a reply as a small graph, which the recogniser walks.

A shape is the language of one JSON value, or of a whole reply. `text` is a shortest instance and `cost` its
price in tokens. `shape_builder` makes shapes from schemas and fills both in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelstack.toolcalls.convention import MAX_DIGITS
from modelstack.toolcalls.grammar.regex import Regex

UNREACHABLE = 1 << 30
"""Price of a shape for which no finite instance is known."""
Price = Callable[[str], int]
"""Returns the number of tokens of a text."""


@dataclass(frozen=True, slots=True)
class LargestSteps:
    """The largest amount that one token can add to the price of completing a reply, in tokens."""

    naming: int
    """Bound while a tool is being chosen: the most expensive call may be chosen."""
    inside: int
    """Bound elsewhere: an optional property, an item, the more expensive option of a union, another call."""


@dataclass(eq=False, slots=True)
class Shape:
    """The fields common to all shapes; a bare instance matches nothing."""

    cost: int = UNREACHABLE
    text: str = ""


@dataclass(eq=False, slots=True)
class Literals(Shape):
    """A choice of fixed JSON texts."""

    texts: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Strings(Shape):
    """A text between delimiters, with limits on its length in characters and its pattern."""

    least: int = 0
    most: int | None = None
    regex: Regex | None = None
    opening: str = '"'
    closing: str = '"'
    """Closing delimiter; one character unless the text is raw."""
    is_raw: bool = False
    """Whether the text has no escapes; it ends at the first closing delimiter."""
    spelled: str = ""
    """Name of `closing` if that is a mark; a raw text must contain neither."""


@dataclass(eq=False, slots=True)
class Numbers(Shape):
    """A JSON number; the bounds only guide its completion."""

    integer: bool = False
    bounds: Mapping[str, Any] = field(default_factory=dict)
    most_digits: int = MAX_DIGITS
    """Maximum number of digits before the point."""


@dataclass(eq=False, slots=True)
class Arrays(Shape):
    """A JSON array."""

    prefix: tuple[Shape, ...] = ()
    item: Shape | None = None
    least: int = 0
    most: int | None = None
    comma: str = ","

    def at(self, index: int) -> Shape | None:
        """Return the shape of the item at `index`; None if there can be no such item."""
        if self.most is not None and index >= self.most:
            return None
        return self.prefix[index] if index < len(self.prefix) else self.item


@dataclass(eq=False, slots=True)
class Property:
    """A declared property of an object."""

    name: str
    key: str
    """The text `"name":` as it is written."""
    shape: Shape
    required: bool


@dataclass(eq=False, slots=True)
class Objects(Shape):
    """A JSON object: declared properties, in this order or in any order, then undeclared ones."""

    properties: tuple[Property, ...] = ()
    extra: Shape | None = None
    patterns: tuple[tuple[Regex, Shape], ...] = ()
    ordered: bool = True
    comma: str = ","
    colon: str = ":"
    """Text after the closing quote of a key; `Property.key` ends with it."""

    def shape_of_extra(self, name: str) -> Shape | None:
        """Return the shape of an undeclared property; None if it is not allowed."""
        for regex, shape in self.patterns:
            if regex.search(name):
                return shape
        return self.extra


@dataclass(eq=False, slots=True)
class Parameters(Shape):
    """The parameters of a call, or the members of an object that is written like parameters.

    Declared parameters come in this order; undeclared ones may come anywhere between them.
    """

    properties: tuple[Property, ...] = ()
    separator: str = ""
    closing: str = ""
    opening: str = ""
    extra: Shape | None = None
    """Value of an undeclared parameter; None: only declared ones are allowed."""
    key_end: str = ""
    """Text after the name of an undeclared parameter."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the declared parameters."""
        return frozenset(one.name for one in self.properties)


@dataclass(eq=False, slots=True)
class Ended(Shape):
    """A value followed by a fixed text."""

    item: Shape = field(default_factory=Shape)
    end: str = ""


@dataclass(eq=False, slots=True)
class Either(Shape):
    """A union of shapes."""

    options: tuple[Shape, ...] = ()


@dataclass(eq=False, slots=True)
class Tagged(Shape):
    """A fixed text that selects the value after it, then a fixed end: a call of some tool, or the result."""

    options: tuple[tuple[str, Shape], ...] = ()
    end: str = "}"
    is_call: bool = False
    n_behind_name: int = 0
    """Number of characters in an option's text after the tool's name; the first of them ends the name."""


@dataclass(eq=False, slots=True)
class Calls(Shape):
    """At least one call."""

    opening: str = ""
    item: Tagged = field(default_factory=Tagged)
    separator: str = ""
    closing: str = ""
    trailing: str = ""
    """Optional text after `closing` while another call is allowed."""
    most: int = 1


@dataclass(eq=False, slots=True)
class Text(Shape):
    """A free text answer, which may turn into calls."""

    not_first: str = ""
    not_begun: tuple[str, ...] = ()
    trigger: str = ""
    """Text that turns words into calls; empty: words never turn into calls."""
    spelled: str = ""
    """Name of `trigger` if that is a mark; words must contain neither."""
    opening: str = ""
    """Text of a call's opening after `trigger`."""
    calls: Calls | None = None


@dataclass(eq=False, slots=True)
class Response(Either):
    """A whole reply."""
