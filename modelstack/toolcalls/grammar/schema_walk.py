"""A walk over normalised schemas, shared by everything that is made from them: shapes, and grammar rules.

A subclass makes a result for each part of a schema; `SchemaWalk` decides which part comes next. All engines
therefore agree on the precedence of keywords, and only this module handles recursive schemas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")
_REFERENCE = "#/$defs/"


def types_allowed(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the JSON types of a normalised schema; `number` includes `integer`."""
    types = schema.get("type", ("object", "array", "string", "number", "boolean", "null"))
    types = (types,) if isinstance(types, str) else tuple(types)
    return tuple(name for name in types if name != "integer" or "number" not in types)


def declared_members(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of an object's properties by name, those of required undeclared properties last."""
    required = schema.get("required", ())
    extra = schema.get("additionalProperties", True)
    properties = schema.get("properties", {})
    declared = {name: sub for name, sub in properties.items() if sub is not False or name in required}
    return {**declared, **{name: extra for name in required if name not in declared}}


class SchemaWalk(ABC, Generic[Made]):
    """Makes a result from a normalised schema.

    A referenced schema is made once. `reserve` returns a result that stands for it meanwhile, so that a schema may
    contain itself.
    """

    def __init__(self, definitions: Mapping[str, Any] | None = None) -> None:
        """Start without references; `definitions` are the `$defs` of the schemas to come."""
        self._definitions = definitions or {}
        self._references: dict[str, Made] = {}
        self._any: Made | None = None

    def value(self, schema: Any) -> Made:
        """Return the result for a value of a normalised schema."""
        if schema is False:
            return self.nothing()
        if schema is True or not set(schema) - {"$defs"}:
            return self.anything()
        if "$ref" in schema:
            return self._referenced(schema["$ref"].removeprefix(_REFERENCE))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self.one_of([self.value(option) for option in schema[keyword]])
        if "const" in schema or "enum" in schema:
            return self.constants([schema["const"]] if "const" in schema else schema["enum"])
        made = [self._typed(name, schema) for name in types_allowed(schema)]
        return made[0] if len(made) == 1 else self.one_of(made)

    def anything(self) -> Made:
        """Return the result for any JSON value, made once."""
        if self._any is None:
            self._any = self.reserve("anything")
            self.define(self._any, [self._typed(name, {}) for name in types_allowed({})])
        return self._any

    @abstractmethod
    def nothing(self) -> Made:
        """Return the result for a schema that allows no value."""

    @abstractmethod
    def one_of(self, options: Sequence[Made]) -> Made:
        """Return the result for a value that is one of `options`."""

    @abstractmethod
    def constants(self, values: Sequence[Any]) -> Made:
        """Return the result for one of some JSON values."""

    @abstractmethod
    def reserve(self, name: str) -> Made:
        """Return a result that `define` completes later."""

    @abstractmethod
    def define(self, reserved: Made, options: Sequence[Made]) -> None:
        """Complete a reserved result: it is one of `options`."""

    def _referenced(self, name: str) -> Made:
        if name not in self._references:
            reserved = self._references[name] = self.reserve(f"ref_{len(self._references)}")
            self.define(reserved, [self.value(self._definitions[name])])
        return self._references[name]

    def _typed(self, name: str, schema: Mapping[str, Any]) -> Made:
        match name:
            case "string":
                return self.string(schema)
            case "boolean":
                return self.constants((True, False))
            case "null":
                return self.constants((None,))
            case "array":
                return self.array(schema)
            case "object":
                return self.object(schema)
            case _:
                return self.number(name, schema)

    @abstractmethod
    def string(self, schema: Mapping[str, Any]) -> Made:
        """Return the result for a string."""

    @abstractmethod
    def number(self, name: str, schema: Mapping[str, Any]) -> Made:
        """Return the result for a number; `name` is "number" or "integer"."""

    @abstractmethod
    def array(self, schema: Mapping[str, Any]) -> Made:
        """Return the result for an array."""

    @abstractmethod
    def object(self, schema: Mapping[str, Any]) -> Made:
        """Return the result for an object."""
