"""Worlds by name, and makers of the copies that task files ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelstack.reasoning.worlds.calendar import CALENDAR
from modelstack.reasoning.worlds.contacts import CONTACTS
from modelstack.reasoning.worlds.files import FILES
from modelstack.reasoning.worlds.lamps import LAMPS
from modelstack.reasoning.worlds.shop import SHOP
from modelstack.reasoning.worlds.todo import TODO
from modelstack.reasoning.worlds.world import Copy, World
from modelstack.toolcalls.grammar.schemas import normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator

WORLDS: Mapping[str, World] = {world.name: world for world in (TODO, SHOP, CONTACTS, CALENDAR, FILES, LAMPS)}


@dataclass(frozen=True, slots=True)
class WorldMaker:
    """Maker of equal copies of a world; two makers are equal if their copies are."""

    world: str
    start_json: str

    @classmethod
    def of(cls, world: str, start: Mapping[str, Any]) -> WorldMaker:
        """Return the maker of a world with the given start state.

        Raises:
            ValueError: The world is unknown, or its schema rejects the state.
        """
        if world not in WORLDS:
            raise ValueError(f"world {world!r} is unknown; known worlds: {', '.join(WORLDS)}")
        schema = WORLDS[world].schema
        if errors := SchemaValidator(schema, normalise(schema, is_arguments=False)).errors(dict(start)):
            raise ValueError(f"start is not a state of world {world!r}: {errors[0]}")
        return cls(world, json.dumps(start, sort_keys=True))

    def __call__(self) -> Copy:
        """Return a new copy in the start state."""
        return Copy(WORLDS[self.world], json.loads(self.start_json))
