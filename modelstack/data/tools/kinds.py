"""Kinds of values by name, as used by hand-written tools and by the rules for real schemas.

A kind is a word with arguments, such as `whole 2 12` or `list food 2 4`. It generates a value with its wording
(`make`), and defines the JSON Schema of the parameter (`schema_of`) with a format hint if the value is not copied
from the wording. Word lists are in words.toml; an entry `Norway = NO` has different forms in request and call.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from modelstack.data.tools import quantities, when
from modelstack.data.tools.spoken import COPIED, Scene, Spoken, listed

Maker = Callable[..., Spoken]
_CODES = {"country_code": "country", "language_code": "language", "currency": "currency", "airport": "airport"}
_CONVERTED = ("city_state", "city_country", "hex_colour")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@cache
def words(name: str) -> tuple[tuple[str, str], ...]:
    """Return the entries of a list in words.toml: form in the request, form in the call."""
    lists = _word_lists()
    return tuple((said, value or said) for said, _, value in (entry.partition(" = ") for entry in lists[name]))


@cache
def _word_lists() -> dict[str, list[str]]:
    content = files("modelstack.data.tools").joinpath("words.toml").read_text(encoding="utf-8")
    return tomllib.loads(content)


def make(kind: str, now: Scene) -> Spoken:
    """Return a value of a kind with its wording.

    Raises:
        KeyError: The kind does not exist.
    """
    name, *arguments = kind.split()
    if name == "list":
        return _list(now, arguments[0], int(arguments[1]), int(arguments[2]))
    if name in _MAKERS:
        return _MAKERS[name](now, *(int(a) for a in arguments))
    if name in _CODES:
        return _coded(now, name)
    if name in quantities.MEASURES:
        return quantities.measure(now, name)
    said, value = now.one(words(name))
    if name in _CONVERTED:
        return Spoken(value, said, "known_form")
    return Spoken(said.removeprefix("a ").removeprefix("an "), said)


def schema_of(kind: str) -> tuple[dict[str, Any], str]:
    """Return the JSON Schema of a parameter of a kind, and its format hint ("" if words are copied)."""
    name, *arguments = kind.split()
    if name == "list":
        item, hint = schema_of(
            arguments[0] if arguments[0] not in ("whole", "decimal") else f"{arguments[0]} 0 9 1"
        )
        return {"type": "array", "items": item}, hint
    if name == "stay":
        raise KeyError("stay fills two parameters: their kinds are stay_first and stay_last")
    numeric = "integer" if name in _INTEGERS or name in quantities.WHOLE_MEASURES else "number"
    is_number = name in _INTEGERS or name in _NUMBERS or name in quantities.MEASURES
    return {"type": numeric if is_number else "string"}, _HINTS.get(name, "")


def _coded(now: Scene, name: str) -> Spoken:
    said, code = now.one(words(_CODES[name]))
    if said == code or (name in ("currency", "airport") and now.chance(0.3)):
        return Spoken(code, code)
    return Spoken(code, said, "code")


def _calendar_year(now: Scene, low: int, high: int) -> Spoken:
    year = now.random.randrange(low, high + 1)
    return Spoken(year, str(year))


def _country(now: Scene) -> Spoken:
    said, _ = now.one(words("country"))
    return Spoken(said.removeprefix("the "), said)


def _person(now: Scene) -> Spoken:
    name = f"{now.one(words('first_name'))[0]} {now.one(words('surname'))[0]}"
    return Spoken(name, name)


def _email(now: Scene) -> Spoken:
    name = now.one(words("first_name"))[0].lower()
    plain = name.encode("ascii", "ignore").decode() or "info"
    at = now.one(["example.org", "example.com", "mail.example.net", "norwind.example", "fernhill.example"])
    address = now.one([f"{plain}@{at}", f"{plain}.{now.random.randrange(10, 99)}@{at}", f"{plain[0]}.office@{at}"])
    return Spoken(address, address)


def _phone(now: Scene) -> Spoken:
    digits = "".join(str(now.random.randrange(10)) for _ in range(4))
    number = now.one([f"+1-555-010-{digits}", f"+44 20 7946 {digits}", f"555-{digits}", f"+4755501{digits}"])
    return Spoken(number, number)


def _code(now: Scene) -> Spoken:
    letters = "".join(now.one(_LETTERS) for _ in range(now.random.randrange(1, 4)))
    number = now.random.randrange(10, 99999)
    code = now.one(
        [f"{letters}-{number}", f"{letters}{number}", f"{number}", f"{letters}-{number % 100}-{number % 7}"]
    )
    return Spoken(code, code)


def _hex_id(now: Scene) -> Spoken:
    text = "".join(now.one("0123456789abcdef") for _ in range(now.one([8, 12, 24])))
    return Spoken(text, text)


def _number_id(now: Scene) -> Spoken:
    number = now.random.randrange(2, 99999)
    return Spoken(number, str(number))


def _ticker(now: Scene) -> Spoken:
    text = "".join(now.one(_LETTERS) for _ in range(now.random.randrange(3, 5)))
    return Spoken(text, text)


def _list(now: Scene, kind: str, low: int, high: int) -> Spoken:
    n = now.random.randrange(low, high + 1)
    if kind in ("whole", "decimal"):
        makers = {
            "whole": lambda: now.random.randrange(1, 99),
            "decimal": lambda: now.random.randrange(5, 400) / 10,
        }
        numbers = [makers[kind]() for _ in range(max(n, 3))]
        texts = [str(x) for x in numbers]
        return Spoken(numbers, now.one([listed(texts), ", ".join(texts), f"[{', '.join(texts)}]"]), "list")
    items: list[Spoken] = []
    while len(items) < n:
        item = make(kind, now)
        if item.value not in [known.value for known in items]:
            items.append(item)
    said = listed([item.name for item in items], now.one([" and ", " and ", ", ", " & "]))
    return Spoken(
        [item.value for item in items], said, "list" if all(i.rule == COPIED for i in items) else "list_coded"
    )


_MAKERS: dict[str, Maker] = {
    "whole": quantities.whole,
    "calendar_year": _calendar_year,
    "decimal": quantities.decimal,
    "percent": quantities.percent,
    "fraction": quantities.fraction,
    "degrees": quantities.degrees,
    "money": quantities.money,
    "dollars": lambda now, low, high: quantities.priced(now, "dollars", low, high),
    "euros": lambda now, low, high: quantities.priced(now, "euros", low, high),
    "level": quantities.level,
    "level_fraction": quantities.level_fraction,
    "compass": quantities.compass,
    "up_or_down": quantities.up_or_down,
    "left_or_right": quantities.left_or_right,
    "times": quantities.times,
    "body_height": quantities.body_height,
    "celsius": quantities.celsius,
    "date": when.day,
    "past_date": when.past_day,
    "date_dmy": when.day_month_year,
    "stay": when.stay,
    "time": when.clock,
    "datetime": when.moment,
    "month": when.month,
    "year": when.year,
    "day_name": when.day_name,
    "country": _country,
    "person": _person,
    "email": _email,
    "phone": _phone,
    "code": _code,
    "hex_id": _hex_id,
    "number_id": _number_id,
    "ticker": _ticker,
}
_INTEGERS = (
    "level",
    "compass",
    "left_or_right",
    "times",
    "body_height",
    "whole",
    "calendar_year",
    "degrees",
    "month",
    "year",
    "number_id",
)
_NUMBERS = (
    "level_fraction",
    "up_or_down",
    "decimal",
    "percent",
    "fraction",
    "money",
    "dollars",
    "euros",
    "celsius",
)
_HINTS = {
    "percent": "in percent",
    "fraction": "as a fraction between 0 and 1",
    "degrees": "in degrees",
    "celsius": "in degrees Celsius",
    "level": "0 to 100",
    "level_fraction": "0 to 1",
    "compass": "degrees from north, clockwise",
    "up_or_down": "metres, negative is down",
    "left_or_right": "degrees, negative is left",
    "body_height": "in cm",
    "date": "YYYY-MM-DD",
    "past_date": "YYYY-MM-DD",
    "stay_first": "YYYY-MM-DD",
    "stay_last": "YYYY-MM-DD",
    "date_dmy": "DD/MM/YYYY",
    "time": "HH:MM, 24-hour",
    "datetime": "ISO 8601, e.g. 2024-05-31T18:00:00",
    "month": "1 to 12",
    "country_code": "ISO 3166 two-letter code",
    "language_code": "ISO 639-1 code",
    "currency": "ISO 4217 code",
    "airport": "IATA code",
    "city_state": "in the form City, ST",
    "city_country": "in the form City, Country",
    "hex_colour": "hex, #RRGGBB",
    **{unit: f"in {unit}" for unit in quantities.MEASURES},
}
