"""Exchange of values in a request and its calls together, so that a model learns to copy instead of to memorise.

A value is exchanged if all of these hold:

- it is a separate word that occurs exactly once in the user's messages;
- its schema restricts only its type;
- no other argument contains it;
- its kind is known: a city, a first name or a whole number.

It is then replaced in all messages except the system's, and in all calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from modelstack.data.examples import Call, Example, Message


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = _words("""
    Accra Adelaide Albuquerque Amsterdam Ankara Athens Atlanta Auckland Austin Baltimore Bangkok Barcelona Basel
    Belfast Bergen Berlin Bilbao Bogota Bologna Bordeaux Boston Bremen Brisbane Bristol Brno Brussels Bucharest
    Budapest Cairo Calgary Canberra Cardiff Casablanca Chennai Chicago Cleveland Cologne Copenhagen Cork Dakar
    Dallas Delhi Denver Detroit Dresden Dubai Dublin Durban Edinburgh Florence Fresno Geneva Genoa Ghent Glasgow
    Graz Hamburg Hanoi Helsinki Houston Istanbul Jakarta Johannesburg Karachi Kolkata Krakow Lagos Leeds Leipzig
    Lima Lisbon Liverpool London Lyon Madrid Malaga Manchester Manila Marseille Melbourne Memphis Miami Milan
    Milwaukee Minneapolis Montreal Mumbai Munich Nairobi Naples Nashville Oakland Omaha Osaka Oslo Ottawa Oxford
    Palermo Paris Perth Philadelphia Phoenix Porto Portland Prague Quebec Raleigh Reykjavik Riga Rome Rotterdam
    Sacramento Santiago Seattle Seoul Seville Shanghai Singapore Sofia Stockholm Stuttgart Sydney Tallinn Tampa
    Tokyo Toledo Toronto Toulouse Tucson Tunis Turin Utrecht Valencia Vancouver Venice Vienna Vilnius Warsaw
    Wellington Winnipeg York Zagreb Zurich
""")
FIRST_NAMES = _words("""
    Aisha Alan Alice Amara Amir Ana Andrew Anna Anton Arjun Astrid Ben Bianca Bruno Carla Carlos Carol Chen Chloe
    Clara Daniel Daria David Diana Diego Elena Eli Elif Emil Emily Emma Erik Esther Eva Farah Felix Fiona Gabriel
    George Greta Hana Hannah Hassan Helen Henry Hugo Ian Igor Ines Ingrid Isaac Ivan Jack Jacob James Jane Jasmine
    Joanna John Jonas Jorge Julia Kai Karen Karim Kate Kenji Kofi Laura Leah Leo Liam Lina Lisa Lucas Lucy Maja
    Marco Maria Martha Martin Maya Mei Michael Mila Mohamed Nadia Nina Noah Nora Olga Oliver Omar Oscar Paul Pavel
    Pedro Peter Priya Rachel Ravi Robert Rosa Ruth Sam Samira Sara Simon Sofie Stefan Susan Tariq Teresa Thomas Tom
    Vera Victor Wei Yara Yusuf Zoe
""")
_FREE = frozenset({"type", "description", "title", "default"})
"""Keywords of a schema that do not restrict a value."""
_YEARS = range(1950, 2040)
_TRIES = 20
"""Maximum draws of a new value; of the 8 one-digit numbers several may be in use."""


def swap_values(example: Example, rng: Random, probability: float) -> Example:
    """Return an example in which each exchangeable value is exchanged with the given probability."""
    known = list(_leaves([call.arguments for call in _calls(example)]))
    for old in _candidates(example):
        if rng.random() < probability:
            new = _other(old, known, rng)
            known.append(new)
            example = _exchanged(example, old, new)
    return example


def _candidates(example: Example) -> list[Any]:
    """Return the values that can be exchanged, in the order of the calls."""
    said = [message.content for message in example.messages if message.role == "user"]
    schemas = {tool.name: tool.parameters.get("properties", {}) for tool in example.tools}
    values = [value for call in _calls(example) for value in _leaves(call.arguments)]
    found: list[Any] = []
    for call in example.calls:
        for key, value in call.arguments.items():
            if value in found or not _is_free(schemas.get(call.name, {}).get(key), value):
                continue
            word = _word(value)
            others = [other for other in values if type(other) is not type(value) or other != value]
            is_alone = not any(word.search(str(other)) for other in others)
            if is_alone and sum(len(word.findall(text)) for text in said) == 1:
                found.append(value)
    return found


def _is_free(schema: Any, value: Any) -> bool:
    """Return whether the schema restricts only the type and the kind of the value is known."""
    if not isinstance(schema, Mapping) or not _FREE.issuperset(schema):
        return False
    if isinstance(value, str):
        return schema.get("type") == "string" and _words_like(value) is not None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and schema.get("type") in ("integer", "number") and value >= 2


def _other(old: Any, known: list[Any], rng: Random) -> Any:
    """Return another value of the same kind: a word in the same case, a year, or a number with as many digits.

    The new value is not in any call yet. If no draw finds such a value, the old one is returned.
    """
    for _ in range(_TRIES):
        if isinstance(old, str):
            new = rng.choice(_words_like(old) or [old])
        elif old in _YEARS:
            new = rng.choice(_YEARS)
        else:
            first = 10 ** (len(str(old)) - 1)
            new = rng.randrange(max(first, 2), 10 * first)
        if new not in known:
            return new
    return old


def _words_like(text: str) -> list[str] | None:
    """Return the words of the text's kind in the same case; None: the kind is unknown."""
    for words in (CITIES, FIRST_NAMES):
        if text in words:
            return list(words)
        if text in (lower := [word.lower() for word in words]):
            return lower
    return None


def _exchanged(example: Example, old: Any, new: Any) -> Example:
    """Return an example in which a value is replaced everywhere except in system messages."""
    word = _word(old)

    def in_message(message: Message) -> Message:
        content = message.content if message.role == "system" else word.sub(str(new), message.content)
        calls = tuple(in_call(call) for call in message.calls)
        return message.model_copy(update={"content": content, "calls": calls})

    def in_call(call: Call) -> Call:
        return call.model_copy(update={"arguments": _replaced(call.arguments, old, new)})

    return example.model_copy(
        update={
            "messages": tuple(in_message(message) for message in example.messages),
            "calls": tuple(in_call(call) for call in example.calls),
        }
    )


def _replaced(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(sub, old, new) for key, sub in value.items()}
    if isinstance(value, list):
        return [_replaced(sub, old, new) for sub in value]
    return new if type(value) is type(old) and value == old else value


def _word(value: Any) -> re.Pattern[str]:
    """Return a pattern for a value as a separate word, not part of a date, time, price or other word."""
    return re.compile(rf"(?<![\w$€£#@])(?<!\d[.,:/-])(?<!-){re.escape(str(value))}(?![\w%])(?![.,:/-]\d)(?!-\w)")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for sub in value.values() if isinstance(value, dict) else value:
            yield from _leaves(sub)
    else:
        yield value


def _calls(example: Example) -> list[Call]:
    return [call for message in example.messages for call in message.calls] + list(example.calls)
