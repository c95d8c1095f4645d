"""A world as data: tools with their effects on a state, and a generator of start states.

The state is JSON data and complete: tools read no clock, no random numbers and no files. A task therefore only
names a world and a start state, and all copies made from them are equal. tau-bench (Yao et al. 2024, arXiv
2406.12045) and BFCL's multi-turn part have worlds of this kind.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.grammar.schemas import normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator

State = dict[str, Any]
DONE = "done"
"""Result of a call that changes something."""


class Refused(ValueError):
    """Error for a call that cannot be performed in the current state."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Tool with its effect: a function of the state, which it may change, and the arguments by name."""

    spec: ToolSpec
    do: Callable[..., Any]

    @property
    def name(self) -> str:
        """Return the tool's name."""
        return self.spec.name


@dataclass(frozen=True, slots=True)
class World:
    """Definition of a world."""

    name: str
    deeds: tuple[Deed, ...]
    schema: Mapping[str, Any]
    """JSON Schema of its states."""
    start: Callable[[random.Random], State]
    """Returns a random start state."""

    def tool(self, name: str) -> ToolSpec:
        """Return the specification of a tool.

        Raises:
            KeyError: The world has no tool of that name.
        """
        return self._deed(name).spec

    def perform(self, state: State, name: str, arguments: Mapping[str, Any]) -> Any:
        """Perform a call on a state and return its result.

        Raises:
            Refused: The tool is unknown, its schema rejects the arguments, or the state does not permit the
                call.
        """
        try:
            deed = self._deed(name)
        except KeyError:
            raise Refused(f"there is no tool {name!r}") from None
        if errors := _validator(json.dumps(deed.spec.parameters)).errors(dict(arguments)):
            raise Refused(errors[0])
        return deed.do(state, **arguments)

    def _deed(self, name: str) -> Deed:
        for deed in self.deeds:
            if deed.name == name:
                return deed
        raise KeyError(name)


class Copy:
    """Copy of a world with its own state; implements `Environment` of `verifiers.effects`."""

    def __init__(self, world: World, start: Mapping[str, Any]) -> None:
        """Copy the start state, which is not modified."""
        self._world, self._state = world, copy.deepcopy(dict(start))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Perform a call; a refused call changes nothing.

        Raises:
            Refused: The call cannot be performed.
        """
        return self._world.perform(self._state, name, arguments)

    def state(self) -> Any:
        """Return the current state."""
        return self._state


def tool(name: str, description: str, do: Callable[..., Any], /, **parameters: Any) -> Deed:
    """Return a tool whose parameters are all required: `title="string"`, or a schema as the value."""
    properties = {key: {"type": value} if isinstance(value, str) else value for key, value in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Deed(ToolSpec(name, description, schema), do)


def table_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a table: rows by name, each an object with the given required properties."""
    one = {
        "type": "object",
        "properties": dict(row),
        "required": list(row),
        "additionalProperties": False,
    }
    return {"type": "object", "additionalProperties": one}


def row_of(table: Mapping[str, Any], name: str) -> Any:
    """Return the row of a table with the given name.

    Raises:
        Refused: The table has no such row.
    """
    if name not in table:
        raise Refused(f"there is no {name!r}")
    return table[name]


def put_new(table: dict[str, Any], name: str, row: Any) -> str:
    """Add a row under a new name.

    Raises:
        Refused: The name is taken.
    """
    if name in table:
        raise Refused(f"{name!r} is there already")
    table[name] = row
    return DONE


@lru_cache(maxsize=256)
def _validator(parameters: str) -> SchemaValidator:
    schema = json.loads(parameters)
    return SchemaValidator(schema, normalise(schema, is_arguments=True))
