"""Worlds by name, and copies of them that a task file can ask for."""

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
    """Makes equal copies of a world; two makers are equal where their copies are."""

    world: str
    start_json: str

    @classmethod
    def of(cls, world: str, start: Mapping[str, Any]) -> WorldMaker:
        """Return the maker of a world from a start.

        Raises:
            ValueError: There is no such world, or it has no such state.
        """
        if world not in WORLDS:
            raise ValueError(f"there is no world {world!r}; there are {', '.join(WORLDS)}")
        schema = WORLDS[world].schema
        if errors := SchemaValidator(schema, normalise(schema, is_arguments=False)).errors(dict(start)):
            raise ValueError(f"world {world!r} has no such start: {errors[0]}")
        return cls(world, json.dumps(start, sort_keys=True))

    def __call__(self) -> Copy:
        """Return a fresh copy."""
        return Copy(WORLDS[self.world], json.loads(self.start_json))
