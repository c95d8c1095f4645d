"""Shapes of JSON values, made from normalised schemas."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from modelstack.toolcalls.convention import MAX_DIGITS, render_json
from modelstack.toolcalls.conventions.form import COMPACT, Notation
from modelstack.toolcalls.conventions.parameters import TextForm
from modelstack.toolcalls.grammar.regex import Regex, RegexError, compile_regex
from modelstack.toolcalls.grammar.schema_walk import SchemaWalk, declared_members
from modelstack.toolcalls.grammar.shapes import (
    Arrays,
    Either,
    Literals,
    Numbers,
    Objects,
    Property,
    Shape,
    Strings,
)

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
AnyShape = TypeVar("AnyShape", bound=Shape)


class ShapeWalk(SchemaWalk[Shape]):
    """Makes shapes and appends each to a list, in which their shortest instances are found later."""

    def __init__(self, shapes: list[Shape], definitions: Mapping[str, Any] | None = None) -> None:
        """Append shapes to `shapes`."""
        super().__init__(definitions)
        self._shapes = shapes

    @abstractmethod
    def written(self, value: Any) -> str:
        """Return a JSON value as it is written."""

    def add(self, shape: AnyShape) -> AnyShape:
        """Append a shape and return it."""
        self._shapes.append(shape)
        return shape

    def nothing(self) -> Shape:
        """Return a shape that matches nothing."""
        return Shape()

    def reserve(self, name: str) -> Shape:
        """Return a union without options."""
        return self.add(Either())

    def define(self, reserved: Shape, options: Sequence[Shape]) -> None:
        """Give a reserved union its options."""
        cast("Either", reserved).options = tuple(options)

    def one_of(self, options: Sequence[Shape]) -> Shape:
        """Return a union."""
        return self.add(Either(options=tuple(options)))

    def constants(self, values: Sequence[Any]) -> Shape:
        """Return the texts of some values."""
        return self.add(Literals(texts=tuple(dict.fromkeys(map(self.written, values)))))

    def text(self, schema: Mapping[str, Any], form: TextForm) -> Shape:
        """Return the shape of a string that is written in a form."""
        return self.add(
            Strings(
                least=schema.get("minLength", 0),
                most=schema.get("maxLength"),
                regex=_regex(schema),
                opening=form.opening,
                closing=form.closing,
                is_raw=form.is_raw,
                spelled=form.spelled,
            )
        )

    def items(self, schema: Mapping[str, Any], inside: SchemaWalk[Shape], comma: str) -> Shape:
        """Return the shape of an array whose items `inside` makes."""
        items = schema.get("items", True)
        return self.add(
            Arrays(
                prefix=tuple(inside.value(item) for item in schema.get("prefixItems", ())),
                item=None if items is False else inside.value(items),
                least=schema.get("minItems", 0),
                most=schema.get("maxItems"),
                comma=comma,
            )
        )


class JsonShapes(ShapeWalk):
    """Makes the shapes of JSON values with the separators of one notation."""

    def __init__(
        self,
        shapes: list[Shape],
        *,
        ordered: bool,
        notation: Notation = COMPACT,
        max_digits: int = MAX_DIGITS,
    ) -> None:
        """Append shapes to `shapes`.

        Args:
            shapes: All shapes of one reply.
            ordered: Whether objects have their properties in the order of the schema.
            notation: Separators of arrays and objects.
            max_digits: Digits that a number may have before its point, unless its bounds have more.
        """
        super().__init__(shapes)
        self._ordered = ordered
        self._notation = notation
        self._max_digits = max_digits

    def document(self, schema: Any) -> Shape:
        """Return the shape of a whole normalised schema with its own `$defs`."""
        self._definitions = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
        self._references = {}
        return self.value(schema)

    def written(self, value: Any) -> str:
        """Return JSON text."""
        return self._notation.written(value)

    def string(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a string between double quotes."""
        return self.text(schema, TextForm())

    def number(self, name: str, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a number, which may have as many digits as its bounds."""
        bounds = [abs(schema[key]) for key in _BOUNDS if isinstance(schema.get(key), int | float)]
        digits = [len(str(int(bound))) for bound in bounds if math.isfinite(bound)]
        most_digits = max([self._max_digits, *digits])
        return self.add(Numbers(integer=name == "integer", bounds=schema, most_digits=most_digits))

    def array(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of an array."""
        return self.items(schema, self, self._notation.comma)

    def object(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of an object; required undeclared properties come last, as in llguidance."""
        required = schema.get("required", ())
        extra = schema.get("additionalProperties", True)
        colon = self._notation.colon
        return self.add(
            Objects(
                properties=tuple(
                    Property(name, render_json(name) + colon, self.value(sub), name in required)
                    for name, sub in declared_members(schema).items()
                ),
                extra=None if extra is False else self.value(extra),
                patterns=tuple(
                    (compile_regex(pattern), self.value(sub))
                    for pattern, sub in schema.get("patternProperties", {}).items()
                    if _compiles(pattern)
                ),
                ordered=self._ordered,
                comma=self._notation.comma,
                colon=colon,
            )
        )

    def anything(self) -> Shape:
        """Return the shape of any JSON value, made once; null, the cheapest instance, comes first."""
        if self._any is None:
            self._any = self.reserve("anything")
            words = self.constants((None, True, False))
            self.define(
                self._any,
                (words, self.number("number", {}), self.string({}), self.array({}), self.object({})),
            )
        return self._any


def _compiles(pattern: str) -> bool:
    try:
        compile_regex(pattern)
    except RegexError:
        return False
    return True


def _regex(schema: Mapping[str, Any]) -> Regex | None:
    """Return the automaton of the pattern; None if there is none, or if only the engine understands it."""
    pattern = schema.get("pattern")
    return compile_regex(pattern) if isinstance(pattern, str) and _compiles(pattern) else None
