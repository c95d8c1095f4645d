"""Requests to each world, as phrasings, with the call that fulfils them.

The last phrasing of each request is never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelstack.reasoning.worlds import calendar, contacts, files, todo
from modelstack.reasoning.worlds.world import State

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """Kind of request to a world."""

    tool: str
    phrasings: tuple[str, ...]
    """Templates with the names of arguments in braces."""
    draw: Callable[[random.Random, State], Arguments]


def _known(table: str, key: str, **more: Callable[[random.Random], Any]) -> Callable[..., Arguments]:
    """Return a generator of arguments for an existing row, with further random values."""

    def draw(chance: random.Random, state: State) -> Arguments:
        return {key: chance.choice(sorted(state[table])), **{name: make(chance) for name, make in more.items()}}

    return draw


def _new(
    table: str, key: str, values: tuple[str, ...], **more: Callable[[random.Random], Any]
) -> Callable[..., Arguments]:
    """Return a generator of arguments for a new row, with further random values."""

    def draw(chance: random.Random, state: State) -> Arguments:
        free = [value for value in values if value not in state[table]]
        return {key: chance.choice(free), **{name: make(chance) for name, make in more.items()}}

    return draw


def _one(values: tuple[str, ...]) -> Callable[[random.Random], str]:
    return lambda chance: chance.choice(values)


def _between(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda chance: chance.randint(low, high)


def _renamed_file(chance: random.Random, state: State) -> Arguments:
    file = chance.choice(sorted(state["files"]))
    free = [name for name in files.NAMES if name not in state["files"]]
    return {"file": file, "new_name": chance.choice(free)}


_TASK = _known("tasks", "title")
_ITEM = _known("items", "item")
_NAME = _known("contacts", "name")
_EVENT = _known("events", "event")
_FILE = _known("files", "file")
_ROOM = _known("lamps", "room")
WISHES: Mapping[str, tuple[Wish, ...]] = {
    "todo": (
        Wish(
            "add_task",
            (
                'Add the task "{title}".',
                'Put "{title}" on my list.',
                'New task: "{title}".',
                'I still have to "{title}".',
            ),
            _new("tasks", "title", todo.TITLES),
        ),
        Wish(
            "complete_task",
            (
                'Mark "{title}" as done.',
                'I have finished "{title}".',
                '"{title}" is done.',
                'Check off "{title}".',
            ),
            _TASK,
        ),
        Wish(
            "delete_task",
            ('Delete "{title}" from the list.', 'Remove the task "{title}".', 'Drop "{title}", I will not do it.'),
            _TASK,
        ),
        Wish(
            "open_tasks",
            (
                "What is left to do?",
                "Which tasks are open?",
                "Show what is not done yet.",
                "What do I still have to do?",
            ),
            lambda chance, state: {},
        ),
        Wish(
            "add_note",
            ('Make a note: "{text}".', 'Note down "{text}".', 'Keep in mind: "{text}".'),
            lambda chance, state: {"text": chance.choice(files.TEXTS)},
        ),
    ),
    "shop": (
        Wish(
            "add_stock",
            ("{count} {item} came in.", "Add {count} {item} to the stock.", "We got {count} more {item}."),
            _known("items", "item", count=_between(2, 19)),
        ),
        Wish(
            "remove_stock",
            (
                "We sold {count} {item}.",
                "Take {count} {item} out.",
                "{count} {item} broke.",
                "{count} {item} were bought.",
            ),
            _known("items", "item", count=_between(2, 19)),
        ),
        Wish(
            "set_price",
            ("Set the price of {item} to {price}.", "{item} now cost {price}.", "Sell {item} for {price} each."),
            _known("items", "item", price=_between(3, 99)),
        ),
        Wish(
            "item_info",
            ("How many {item} are there?", "What do {item} cost?", "Look up {item}.", "Do we have {item}?"),
            _ITEM,
        ),
    ),
    "contacts": (
        Wish(
            "add_contact",
            (
                "Add {name}, phone {phone}.",
                "Save {name} with the number {phone}.",
                "New contact: {name}, {phone}.",
            ),
            _new("contacts", "name", contacts.NAMES, phone=contacts.phone_of),
        ),
        Wish(
            "change_phone",
            (
                "{name} has a new number: {phone}.",
                "Change {name}'s phone to {phone}.",
                "{name} is now at {phone}.",
            ),
            _known("contacts", "name", phone=contacts.phone_of),
        ),
        Wish(
            "change_town",
            ("{name} moved to {town}.", "{name} lives in {town} now.", "Set {name}'s town to {town}."),
            _known("contacts", "name", town=_one(contacts.TOWNS)),
        ),
        Wish(
            "delete_contact",
            ("Delete {name}.", "Remove {name} from the address book.", "I do not need {name} any more."),
            _NAME,
        ),
        Wish(
            "find_contact",
            ("What is {name}'s number?", "Where does {name} live?", "Look up {name}.", "How do I reach {name}?"),
            _NAME,
        ),
    ),
    "files": (
        Wish(
            "create_file",
            (
                'Create {file} with "{text}".',
                'Write "{text}" into a new file {file}.',
                'Make {file} that says "{text}".',
            ),
            _new("files", "file", files.NAMES, text=_one(files.TEXTS)),
        ),
        Wish(
            "append_to_file",
            ('Add "{text}" to {file}.', 'Append "{text}" to {file}.', 'Put "{text}" at the end of {file}.'),
            _known("files", "file", text=_one(files.TEXTS)),
        ),
        Wish("delete_file", ("Delete {file}.", "Remove the file {file}.", "Throw {file} away."), _FILE),
        Wish(
            "rename_file",
            (
                "Rename {file} to {new_name}.",
                "Call {file} {new_name} instead.",
                "Change the name of {file} to {new_name}.",
            ),
            _renamed_file,
        ),
        Wish("read_file", ("What is in {file}?", "Show me {file}.", "Read {file} to me."), _FILE),
    ),
    "calendar": (
        Wish(
            "add_event",
            (
                "Add {event} on {day} at {hour}.",
                "Plan {event} for {day}, {hour} o'clock.",
                "I have {event} {day} at {hour}.",
            ),
            _new("events", "event", calendar.EVENTS, day=_one(calendar.DAYS), hour=_between(8, 20)),
        ),
        Wish(
            "move_event",
            ("Move {event} to {day}.", "{event} is on {day} now.", "Put {event} off until {day}."),
            _known("events", "event", day=_one(calendar.DAYS)),
        ),
        Wish("cancel_event", ("Cancel {event}.", "{event} is off.", "I will not go to {event}."), _EVENT),
        Wish(
            "events_on",
            ("What is on {day}?", "Which events are there on {day}?", "What do I have {day}?"),
            lambda chance, state: {"day": chance.choice(calendar.DAYS)},
        ),
    ),
    "lamps": (
        Wish(
            "lamp_on", ("Turn on the light in the {room}.", "Lamp on, {room}.", "It is dark in the {room}."), _ROOM
        ),
        Wish(
            "lamp_off",
            ("Turn off the {room} lamp.", "Lamp off, {room}.", "No light in the {room}, please."),
            _ROOM,
        ),
        Wish(
            "dim_lamp",
            (
                "Dim the {room} to {percent} percent.",
                "{room} light at {percent} percent.",
                "Set the {room} to {percent}.",
            ),
            _known("lamps", "room", percent=_between(5, 95)),
        ),
        Wish(
            "lamp_status",
            ("Is the {room} lamp on?", "How bright is the {room}?", "What about the lamp in the {room}?"),
            _ROOM,
        ),
    ),
}
FOREIGN = (
    "What is the capital of {town}'s country?",
    "Play some music.",
    "Translate {name} into French.",
    "How is the weather in {town}?",
    "Tell {name} a joke.",
    "Book a flight to {town}.",
    "Send {name} an e-mail.",
    "Order a pizza for {name}.",
)
"""Requests that no tool of any world can fulfil."""
HELD_OUT = ("calendar", "lamps")
"""Worlds for evaluation only."""


def foreign(chance: random.Random) -> str:
    """Return a random request that no world can fulfil."""
    return chance.choice(FOREIGN).format(town=chance.choice(contacts.TOWNS), name=chance.choice(contacts.NAMES))
