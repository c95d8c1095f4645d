"""The lamps of a house: on or off, with a brightness."""

from __future__ import annotations

import random
from typing import Any

from modelstack.reasoning.worlds.world import DONE, State, World, row_of, table_of, tool

ROOMS = ("kitchen", "hall", "bedroom", "office", "garage", "attic", "cellar", "bathroom", "porch", "nursery")
_PERCENT = {"type": "integer", "minimum": 1, "maximum": 100}


def _on(state: State, room: str) -> str:
    row_of(state["lamps"], room)["on"] = True
    return DONE


def _off(state: State, room: str) -> str:
    row_of(state["lamps"], room)["on"] = False
    return DONE


def _dim(state: State, room: str, percent: int) -> str:
    row_of(state["lamps"], room)["percent"] = percent
    return DONE


def _status(state: State, room: str) -> Any:
    return {"room": room, **row_of(state["lamps"], room)}


def _start(chance: random.Random) -> State:
    rooms = chance.sample(ROOMS, 4)
    return {"lamps": {room: {"on": n % 2 == 0, "percent": chance.randint(20, 95)} for n, room in enumerate(rooms)}}


LAMPS = World(
    "lamps",
    (
        tool("lamp_on", "Switch the lamp of a room on", _on, room="string"),
        tool("lamp_off", "Switch the lamp of a room off", _off, room="string"),
        tool("dim_lamp", "Set how bright the lamp of a room is", _dim, room="string", percent=_PERCENT),
        tool("lamp_status", "Say whether the lamp of a room is on and how bright", _status, room="string"),
    ),
    {
        "type": "object",
        "properties": {"lamps": table_of({"on": {"type": "boolean"}, "percent": _PERCENT})},
        "required": ["lamps"],
        "additionalProperties": False,
    },
    _start,
)
