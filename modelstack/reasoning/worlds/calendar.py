"""A calendar of one week: events with a day and an hour."""

from __future__ import annotations

import random

from modelstack.reasoning.worlds.world import DONE, State, World, put_new, row_of, table_of, tool

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EVENTS = (
    "dentist", "yoga", "team lunch", "concert", "haircut", "job interview", "chess club", "swimming", "book club",
    "choir", "car check", "museum visit", "dance class", "picnic", "board meeting", "eye test",
)  # fmt: skip
_DAY = {"type": "string", "enum": list(DAYS)}
_HOUR = {"type": "integer", "minimum": 0, "maximum": 23}


def _add(state: State, event: str, day: str, hour: int) -> str:
    return put_new(state["events"], event, {"day": day, "hour": hour})


def _move(state: State, event: str, day: str) -> str:
    row_of(state["events"], event)["day"] = day
    return DONE


def _cancel(state: State, event: str) -> str:
    row_of(state["events"], event)
    del state["events"][event]
    return DONE


def _on(state: State, day: str) -> list[str]:
    return sorted(event for event, when in state["events"].items() if when["day"] == day)


def _start(chance: random.Random) -> State:
    events = chance.sample(EVENTS, 4)
    return {"events": {event: {"day": chance.choice(DAYS), "hour": chance.randint(8, 20)} for event in events}}


CALENDAR = World(
    "calendar",
    (
        tool("add_event", "Put a new event into the calendar", _add, event="string", day=_DAY, hour=_HOUR),
        tool("move_event", "Move an event to another day", _move, event="string", day=_DAY),
        tool("cancel_event", "Take an event out of the calendar", _cancel, event="string"),
        tool("events_on", "List the events of a day", _on, day=_DAY),
    ),
    {
        "type": "object",
        "properties": {"events": table_of({"day": _DAY, "hour": _HOUR})},
        "required": ["events"],
        "additionalProperties": False,
    },
    _start,
)
