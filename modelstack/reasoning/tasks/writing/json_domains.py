"""Subjects of JSON tasks: things with properties, and the phrases for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Chance = random.Random


@dataclass(frozen=True, slots=True)
class Property:
    """Property of a thing: its key, its values, and the phrase for a value."""

    key: str
    kind: str
    """Type as named in the prompt: text, whole number, true or false; for a choice its values."""
    draw: Callable[[Chance], Any]
    said: Callable[[Any], str]
    group: str = ""
    """Key of the object in which the property may be nested; empty: never nested."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Category of things with their properties."""

    name: str
    lead: Property
    """Property that names the thing; it begins the sentence."""
    properties: tuple[Property, ...]


def _text(key: str, values: Sequence[str], said: str, group: str = "") -> Property:
    return Property(key, "text", lambda chance: chance.choice(values), said.format, group)


def _number(key: str, low: int, high: int, said: str, group: str = "") -> Property:
    return Property(key, "whole number", lambda chance: chance.randint(low, high), said.format, group)


def _choice(key: str, values: Sequence[str], said: str) -> Property:
    kind = " or ".join(f'"{value}"' for value in values)
    return Property(key, kind, lambda chance: chance.choice(values), said.format)


def _flag(key: str, yes: str, no: str) -> Property:
    return Property(key, "true or false", lambda chance: chance.random() < 0.5, lambda on: yes if on else no)


_PEOPLE = ("Ann", "Omar", "Mia", "Ben", "Lena", "Tom", "Ida", "Paul", "Nina", "Carl", "Sara", "Hugo", "Eva", "Max")
_TOWNS = ("Rome", "Paris", "Cairo", "Boston", "London", "Dublin", "Tokyo", "Madrid", "Berlin", "Sydney")
_COLOURS = ("red", "blue", "green", "black", "white", "brown")
DOMAINS = (
    Domain(
        "person",
        _text("name", _PEOPLE, "{}"),
        (
            _number("age", 18, 80, "is {} years old"),
            _text("city", _TOWNS, "lives in {}", "home"),
            _text("job", ("teacher", "nurse", "driver", "cook", "painter", "farmer"), "works as a {}"),
            _flag("married", "is married", "is not married"),
        ),
    ),
    Domain(
        "pet",
        _text("name", ("Bella", "Rex", "Luna", "Max", "Coco", "Milo", "Daisy", "Rocky"), "{}"),
        (
            _choice("animal", ("cat", "dog"), "is a {}"),
            _number("age", 1, 15, "is {} years old"),
            _text("color", _COLOURS, "is {}"),
            _text("owner", _PEOPLE, "belongs to {}"),
        ),
    ),
    Domain(
        "book",
        _text("title", ("Dune", "Emma", "Ulysses", "Dracula", "Hamlet", "Walden", "Persuasion"), 'The book "{}"'),
        (
            _number("pages", 90, 900, "has {} pages"),
            _number("year", 1900, 2020, "came out in {}"),
            _choice("cover", ("hard", "soft"), "has a {} cover"),
            _number("price", 5, 60, "costs {} dollars", "shop"),
        ),
    ),
    Domain(
        "city",
        _text("name", _TOWNS, "{}"),
        (
            _number("bridges", 2, 60, "has {} bridges"),
            _number("museums", 2, 40, "has {} museums"),
            _choice("size", ("small", "large"), "is a {} city"),
            _text("mayor", _PEOPLE, "has a mayor called {}"),
        ),
    ),
    Domain(
        "order",
        _text("customer", _PEOPLE, "{}"),
        (
            _text("item", ("lamp", "chair", "mug", "clock", "desk", "rug"), "orders a {}"),
            _number("price", 5, 200, "pays {} dollars"),
            _text("color", _COLOURS, "wants it in {}"),
            _flag("gift", "wants it as a gift", "does not want it as a gift"),
        ),
    ),
)
"""Domains for training and evaluation."""
HELD_OUT_DOMAINS = (
    Domain(
        "car",
        _text("brand", ("Ford", "Fiat", "Volvo", "Honda", "Audi", "Mazda"), "The {}"),
        (
            _text("color", _COLOURS, "is {}"),
            _number("doors", 2, 5, "has {} doors"),
            _number("price", 900, 9900, "costs {} dollars"),
            _flag("electric", "is electric", "is not electric"),
        ),
    ),
    Domain(
        "team",
        _text("team", ("Lions", "Bears", "Eagles", "Sharks", "Wolves", "Tigers"), "The team of the {}"),
        (
            _number("players", 5, 30, "has {} players"),
            _text("coach", _PEOPLE, "is led by {}"),
            _text("city", _TOWNS, "plays in {}"),
            _number("wins", 1, 40, "has won {} games"),
        ),
    ),
)
"""Domains for evaluation only."""
