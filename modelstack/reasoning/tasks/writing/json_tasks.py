"""Strict JSON tasks: a sentence, the required keys, and a schema whose constants are the values of the sentence.

The schema also checks values, so `{}` or invented values get no reward. On the held-back side, half of the tasks
use domains that are never trained on.
"""

from __future__ import annotations

import random
from typing import Any

from modelstack.data.examples import Message
from modelstack.reasoning.tasks.task import TaskLine
from modelstack.reasoning.tasks.writing.json_domains import DOMAINS, HELD_OUT_DOMAINS, Domain, Property
from modelstack.reasoning.tasks.writing.written import LICENSE, Side, Source

_P_GROUPED = 0.3
"""Probability that a property with a group is nested in its own object."""
_P_UNASKED = 0.25
"""Probability that a sentence states one more thing than is asked for."""
_N_SAID = (1, 1, 2, 2, 2, 3)
"""Numbers of properties stated in a sentence besides the lead; drawn uniformly."""
_IMPOSSIBLE = {"not": {}}
_SHOWN = (
    Message(role="system", content="You turn sentences into JSON."),
    Message(
        role="user",
        content=(
            'The door is green and costs 40 dollars. Write this as JSON with the keys "color" (text) and "price" '
            "(whole number). Reply with the JSON only."
        ),
    ),
    Message(role="assistant", content='{"color": "green", "price": 40}'),
)
"""Turns before each request; without an example, models of this size add fences and words."""


def json_source() -> Source:
    """Return the source of strict JSON tasks."""
    return Source("json", _make, lambda task: task.model_copy(update={"gold": _IMPOSSIBLE}))


def _make(chance: random.Random, side: Side, number: int) -> TaskLine:
    is_new = side == "held-back" and chance.random() < 0.5
    domain = chance.choice(HELD_OUT_DOMAINS if is_new else DOMAINS)
    said = chance.sample(domain.properties, chance.choice(_N_SAID))
    values = {each.key: each.draw(chance) for each in (domain.lead, *said)}
    is_told_more = len(said) > 1 and chance.random() < _P_UNASKED
    asked = [domain.lead, *(said[:-1] if is_told_more else said)]
    grouped = {each.key for each in asked if each.group and chance.random() < _P_GROUPED}
    text = f"{_sentence(domain, said, values)} {_wish(asked, grouped)}"
    return TaskLine(
        id="-",
        messages=(*_SHOWN, Message(role="user", content=text)),
        gold=_schema(asked, grouped, values),
        license=LICENSE,
        source=f"json {domain.name}",
    )


def _sentence(domain: Domain, said: list[Property], values: dict[str, Any]) -> str:
    parts = [each.said(values[each.key]) for each in said]
    return f"{domain.lead.said(values[domain.lead.key])} {_joined(parts)}."


def _wish(asked: list[Property], grouped: set[str]) -> str:
    keys = [
        f'"{each.group}" (an object with the key "{each.key}", {each.kind})'
        if each.key in grouped
        else f'"{each.key}" ({each.kind})'
        for each in asked
    ]
    noun = "key" if len(keys) == 1 else "keys"
    return f"Write this as JSON with the {noun} {_joined(keys)}. Reply with the JSON only."


def _schema(asked: list[Property], grouped: set[str], values: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for each in asked:
        exactly: dict[str, Any] = {"const": values[each.key]}
        properties |= {each.group: _object({each.key: exactly})} if each.key in grouped else {each.key: exactly}
    return _object(properties)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
