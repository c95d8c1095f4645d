"""Conversations with the tools that the agent at the end has: sums, units, dates.

The tools are those of an MCP server of the package, as a client lists them (`agent_tools.json`; a test compares
them with the server). A model of a few million parameters learns narrow things; the agent is asked for these.
A conversation has several requests, and every call and every answer in it is learnt: the tools take four fifths of
an example's tokens, so a conversation of one request would spend its computation on reading them again. The
requests of the recipe's tasks, and those that are held back, are in no conversation to learn from.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from modelstack.data.examples import Call, Example, Message, Tool

_FILE = Path(__file__).with_name("agent_tools.json")
LICENSE, SOURCE = "CC0-1.0", "agent tools"
HELD_BACK_OF_256 = 24
TURNS = 5
"""Requests of a conversation; more would leave fewer first requests to learn from, and cost attention."""
ASKED_BY_THE_AGENT = ("What is 17 + 25?", "How many m are 6 km?", "Which date is 10 days after 2026-03-01?")
"""Requests of the default tasks, which no example has."""
_UNITS = {
    ("km", "m"): 1000,
    ("m", "cm"): 100,
    ("kg", "g"): 1000,
    ("h", "min"): 60,
    ("min", "s"): 60,
    ("cm", "mm"): 10,
}
_SIGNS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "+": ("plus", lambda a, b: a + b),
    "-": ("minus", lambda a, b: a - b),
    "*": ("times", lambda a, b: a * b),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its call, the tool's result and the answer."""

    text: str
    call: Call
    result: str
    answer: str


@cache
def agent_tools() -> tuple[Tool, ...]:
    """Return the tools of the agent's server."""
    return tuple(Tool.model_validate(each) for each in json.loads(_FILE.read_text(encoding="utf-8")))


def agent_requests(n: int, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Return `n` different requests to learn from, and the held-back ones that were drawn between them.

    There are tens of thousands of different requests; the recipe allows 10,000.
    """
    learnt: list[Asked] = []
    held_back: list[Asked] = []
    seen: set[str] = set(ASKED_BY_THE_AGENT)
    for number in count():
        if len(learnt) == n:
            break
        asked = _asked(random.Random(f"agent {seed} {number}"))
        if asked.text in seen:
            continue
        seen.add(asked.text)
        is_held_back = hashlib.sha256(asked.text.encode()).digest()[0] < HELD_BACK_OF_256
        (held_back if is_held_back else learnt).append(asked)
    return learnt, held_back


def call_examples(requests: Sequence[Asked], name: str) -> list[Example]:
    """Return an example of each request, whose target is the call."""
    return [
        _example(f"{name}-{number}", (Message(role="user", content=asked.text),), kind="call", calls=(asked.call,))
        for number, asked in enumerate(requests)
    ]


def conversations(requests: Sequence[Asked], name: str) -> list[Example]:
    """Return conversations of `TURNS` requests each, fewer in the last one; calls and answers are learnt."""
    return [
        _conversation(requests[start : start + TURNS], f"{name}-{start // TURNS}")
        for start in range(0, len(requests), TURNS)
    ]


def _asked(draw: random.Random) -> Asked:
    return draw.choice((_sum, _unit, _date))(draw)


def _sum(draw: random.Random) -> Asked:
    sign, (word, compute) = draw.choice(list(_SIGNS.items()))
    a, b = draw.randrange(2, 100), draw.randrange(2, 100)
    expression, result = f"{a} {sign} {b}", str(compute(a, b))
    text = draw.choice((f"What is {expression}?", f"What is {a} {word} {b}?", f"Please compute {expression}."))
    call = Call(name="calculate", arguments={"expression": expression})
    return Asked(text, call, result, f"{expression} is {result}.")


def _unit(draw: random.Random) -> Asked:
    (large, small), factor = draw.choice(list(_UNITS.items()))
    amount = draw.randrange(2, 500)
    text = draw.choice((f"How many {small} are {amount} {large}?", f"Convert {amount} {large} to {small}."))
    arguments = {"amount": str(amount), "from_unit": large, "to_unit": small}
    result = f"{amount * factor} {small}"
    return Asked(text, Call(name="convert_units", arguments=arguments), result, f"{amount} {large} are {result}.")


def _date(draw: random.Random) -> Asked:
    start = date(2026, 1, 1) + timedelta(days=draw.randrange(360))
    days = draw.randrange(2, 30)
    then = start + timedelta(days=days)
    text = draw.choice((f"Which date is {days} days after {start}?", f"What is {start} plus {days} days?"))
    result = f"{then:%A} {then}"
    call = Call(name="shift_date", arguments={"start": str(start), "days": days})
    return Asked(text, call, result, f"That is {result}.")


def _conversation(requests: Sequence[Asked], name: str) -> Example:
    *earlier, last = requests
    turns = [turn for asked in earlier for turn in (*_called(asked), _said(asked.answer))]
    return _example(name, (*turns, *_called(last)), kind="answer", reply=last.answer)


def _called(asked: Asked) -> tuple[Message, Message, Message]:
    """Return the turns of a request until the tool's result."""
    return (
        Message(role="user", content=asked.text),
        Message(role="assistant", calls=(asked.call,), train=True),
        Message(role="tool", content=asked.result),
    )


def _said(answer: str) -> Message:
    return Message(role="assistant", content=answer, train=True)


def _example(name: str, messages: tuple[Message, ...], **target: Any) -> Example:
    about = {"id": name, "source": SOURCE, "license": LICENSE, "tools": agent_tools(), "messages": messages}
    return Example.model_validate({**about, **target})
