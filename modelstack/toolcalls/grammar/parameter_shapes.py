"""Shapes of arguments that are written parameter by parameter, made from normalised schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.conventions.parameters import ParameterForm
from modelstack.toolcalls.grammar.schema_walk import declared_members
from modelstack.toolcalls.grammar.shapes import Ended, Parameters, Property, Shape
from modelstack.toolcalls.grammar.value_shapes import JsonShapes, ShapeWalk


class ParameterShapes(ShapeWalk):
    """Makes the shapes of one tool's arguments."""

    def __init__(
        self, shapes: list[Shape], json: JsonShapes, form: ParameterForm, definitions: Mapping[str, Any]
    ) -> None:
        """Append shapes to `shapes`.

        Args:
            shapes: All shapes of one reply.
            json: Makes the values that this form writes as JSON.
            form: How arguments are written.
            definitions: `$defs` of the arguments' schema.
        """
        super().__init__(shapes, definitions)
        self._json = json
        self._form = form
        self._inner: ParameterShapes | None = None

    def arguments(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a tool's arguments; only declared parameters are allowed."""
        return self._members({**schema, "additionalProperties": False})

    def written(self, value: Any) -> str:
        """Return a value with its end, as this form writes it."""
        return self._form.value(value)

    def string(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a text."""
        return self.text(schema, self._form.text)

    def number(self, name: str, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a JSON number."""
        return self._as_json(name, schema)

    def array(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a list: of values in this form, or of JSON values."""
        if self._form.text_in_list is None:
            return self._as_json("array", schema)
        return self.items(schema, self._inside, self._form.comma)

    def object(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of an object: with members like arguments, or as JSON."""
        if not self._form.object_opening:
            return self._as_json("object", schema)
        return self._inside._members(schema, self._form.object_opening)

    def _members(self, schema: Mapping[str, Any], opening: str = "") -> Shape:
        extra = schema.get("additionalProperties", True)
        required = schema.get("required", ())
        properties = tuple(
            Property(name, self._form.key(name), self.value(sub), name in required)
            for name, sub in declared_members(schema).items()
        )
        return self.add(
            Parameters(
                properties=properties,
                separator=self._form.separator,
                closing=self._form.closing,
                opening=opening,
                extra=None if extra is False else self.value(extra),
                key_end=self._form.key_suffix,
            )
        )

    def _as_json(self, name: str, schema: Mapping[str, Any]) -> Shape:
        item = self._json.document({**schema, "type": name, "$defs": self._definitions})
        return self.add(Ended(item=item, end=self._form.value_end)) if self._form.value_end else item

    @property
    def _inside(self) -> ParameterShapes:
        """The walk for items of a list and members of an object, whose form may differ."""
        if self._inner is None:
            inner = self._form.inner
            is_same = inner == self._form
            self._inner = self if is_same else ParameterShapes(self._shapes, self._json, inner, self._definitions)
        return self._inner
