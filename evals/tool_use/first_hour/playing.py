"""Scripted models that replace the real model: the reference, the near miss, and lazy agents that must never pass.

"nothing", "unsure" and "parrot" answer immediately: "Done.", "I'm not sure what you're asking.", and the request
itself. "echo" makes one call and then repeats the request. "everything" calls the tools and pastes the whole
content. Scripts use the same agent and servers as a model.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from agentkit.models.base import Model
from evals.case import Case
from evals.tool_use.executed.playing import LOOKING, NOTHING, model_playing
from evals.tool_use.executed.task import Call, Solution, call
from evals.tool_use.executed.world import World, start_world
from evals.tool_use.first_hour.checking import forms
from evals.tool_use.first_hour.request import ClockCheck, Request, request_of

PLAYS = ("reference", "nothing", "unsure", "parrot", "echo", "everything", "wrong")
UNSURE = "I'm not sure what you're asking."


def model_for(case: Case, model: Model) -> Model:
    """Return the model that plays a case: its script, or the model under test."""
    play = case.data["play"]
    return model if play is None else model_playing(solution(request_of(case), play), play)


def solution(request: Request, play: str) -> Solution:
    """Return the calls and the answer of a script.

    Raises:
        KeyError: no script has this name.
    """
    looking: tuple[Call, ...] = tuple(call(tool) for tool in LOOKING.values())
    return {
        "reference": Solution(request.reference.calls, with_clock(request, request.reference.answer)),
        "nothing": Solution((), NOTHING),
        "unsure": Solution((), UNSURE),
        "parrot": Solution((), request.request),
        "echo": Solution(looking[:1], request.request),
        "everything": Solution(looking, pasted(start_world(request.task))),
        "wrong": Solution(request.wrong.calls, with_clock(request, request.wrong.answer)),
    }[play]


def with_clock(request: Request, answer: str) -> str:
    """Replace {now} in an answer by the current clock value, and {not now} by that of 25 hours before."""
    if not isinstance(request.check, ClockCheck):
        return answer
    check = request.check
    at = datetime.now(UTC).astimezone(ZoneInfo(check.zone)) + timedelta(days=check.days_ahead)
    before = at - timedelta(days=1, hours=1)
    return answer.replace("{now}", forms(check, at)[0]).replace("{not now}", forms(check, before)[0])


def pasted(world: World) -> str:
    """Return the whole content of a world as text."""
    lines = [line for path, text in world.tree.items() for line in (path, *text.splitlines())]
    lines += [" | ".join(map(str, row)) for rows in world.tables.values() for row in rows]
    return "\n".join(lines)
