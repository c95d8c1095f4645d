"""An address book: a number and a town for each name."""

from __future__ import annotations

import random
from typing import Any

from modelstack.reasoning.worlds.world import DONE, State, World, put_new, row_of, table_of, tool

NAMES = (
    "Ann", "Omar", "Mia", "Ben", "Lena", "Tom", "Ida", "Paul", "Nina", "Carl", "Sara", "Hugo", "Eva", "Max",
    "Rosa", "Ivan",
)  # fmt: skip
TOWNS = ("Oslo", "Lima", "Rome", "Cairo", "Paris", "Delhi", "Bern", "Quito", "Prague", "Dublin")


def _add(state: State, name: str, phone: str) -> str:
    return put_new(state["contacts"], name, {"phone": phone, "town": ""})


def _phone(state: State, name: str, phone: str) -> str:
    row_of(state["contacts"], name)["phone"] = phone
    return DONE


def _town(state: State, name: str, town: str) -> str:
    row_of(state["contacts"], name)["town"] = town
    return DONE


def _delete(state: State, name: str) -> str:
    row_of(state["contacts"], name)
    del state["contacts"][name]
    return DONE


def _find(state: State, name: str) -> Any:
    return {"name": name, **row_of(state["contacts"], name)}


def phone_of(chance: random.Random) -> str:
    """Return a random phone number of four digits."""
    return str(chance.randint(1000, 9999))


def _start(chance: random.Random) -> State:
    names = chance.sample(NAMES, 4)
    return {"contacts": {name: {"phone": phone_of(chance), "town": chance.choice(TOWNS)} for name in names}}


CONTACTS = World(
    "contacts",
    (
        tool("add_contact", "Add a new person with a phone number", _add, name="string", phone="string"),
        tool("change_phone", "Change the phone number of a known person", _phone, name="string", phone="string"),
        tool("change_town", "Change where a known person lives", _town, name="string", town="string"),
        tool("delete_contact", "Remove a person from the address book", _delete, name="string"),
        tool("find_contact", "Look up a person's phone number and town", _find, name="string"),
    ),
    {
        "type": "object",
        "properties": {"contacts": table_of({"phone": {"type": "string"}, "town": {"type": "string"}})},
        "required": ["contacts"],
        "additionalProperties": False,
    },
    _start,
)
