"""A scripted exchange: the user's request, the calls that serve it, and the answer from their results.

A script is a generator. It yields the request, then each step's calls, receives the results of a step as texts,
and returns the answer. Its facts come from the script's world or from the results themselves, so an answer is
right by construction (as values are in `modelstack.data.tools.spoken`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.specialise.demonstrations.file_questions import Question
from agentkit.specialise.demonstrations.world import World
from modelstack.data.examples import Call
from modelstack.data.tools.spoken import Scene, in_words

_SUM = re.compile(r"(\d+(?: \+ \d+)+) = \d")
"""Start of an answer that shows the terms of a sum."""


@dataclass(frozen=True, slots=True)
class Step:
    """Calls of one reply."""

    calls: tuple[Call, ...]
    is_mistake: bool = False
    """True: shown as context without training on it; the next step recovers from its error."""
    may_fail: bool = False
    """True: the call may fail; the answer then reports the error."""
    is_learnt: bool = True
    """True: the step is a training target; never for a mistake."""


Script = Generator[str | Step, Sequence[str], str | None]
"""Yields the request, then steps; returns the answer, or None if the random draw leads nowhere."""
Maker = Callable[[World, Scene], Script]


def call(name: str, /, **arguments: Any) -> Step:
    """Return a step of one call."""
    return Step((Call(name=name, arguments=arguments),))


def calls(*steps: Step) -> Step:
    """Return a step of several calls in one reply."""
    return Step(tuple(each for step in steps for each in step.calls))


def mistake(name: str, /, **arguments: Any) -> Step:
    """Return a failing call that the next step corrects."""
    return Step((Call(name=name, arguments=arguments),), is_mistake=True, is_learnt=False)


def detour(name: str, /, **arguments: Any) -> Step:
    """Return a call that works but does not help: shown, not trained on."""
    return Step((Call(name=name, arguments=arguments),), is_learnt=False)


def trial(name: str, /, **arguments: Any) -> Step:
    """Return a call that may fail; the answer then says so."""
    return Step((Call(name=name, arguments=arguments),), may_fail=True)


def count(now: Scene, n: int) -> str:
    """Return a number as people write it: small ones sometimes in words."""
    return in_words(n) if 0 < n <= 12 and now.chance(0.25) else str(n)


def several(n: int, one: str, many: str | None = None) -> str:
    """Return `one` or its plural."""
    return one if n == 1 else many or (f"{one[:-1]}ies" if one.endswith("y") else f"{one}s")


def typed(now: Scene, text: str) -> str:
    """Vary a request as users type: capitals, full stop, polite words."""
    is_question = text.endswith("?")
    if now.chance(0.12):
        before = ("hey,", "ok, now:", "next:") if is_question else ("please", "can you", "could you", "hey,")
        text = f"{now.one(before)} {text}"
    if now.chance(0.1) and not is_question:
        text = f"{text.rstrip('.')}, please."
    if now.chance(0.3):
        text = text[:1].lower() + text[1:]
    elif now.chance(0.8):
        text = text[:1].upper() + text[1:]
    return text.rstrip(".?") if now.chance(0.12) else text


def search(world: World, keyword: str) -> Generator[Step, Sequence[str], str]:
    """Search the files, and list unknown tables in the same reply; return the search result."""
    searched = call("search_text", text=keyword)
    if "tables" in world.servers and not world.known_tables:
        world.known_tables = True
        _, found = yield calls(call("list_tables"), searched)
    else:
        (found,) = yield searched
    return found


def answer_to(question: Question, world: World, now: Scene) -> Generator[Step, Sequence[str], str]:
    """Return the answer to a question; the time server, if available, computes any sum in it."""
    answer = sentence(now.one(question.answers))
    summed = _SUM.match(answer)
    if summed and "time" in world.servers:
        yield call("calculate", expression=summed[1])
    return answer


def sentence(text: str) -> str:
    """Return an answer with a capital first letter, unless it begins with a file name."""
    first = text.split(" ", 1)[0]
    return text if "." in first.rstrip(".,:") or "/" in first or "_" in first else text[:1].upper() + text[1:]


def quoted(value: str | int) -> str:
    """Return a value as an SQL literal."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
