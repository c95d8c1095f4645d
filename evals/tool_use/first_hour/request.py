"""Data of a request: prompt, check of the answer, a reference solution and a near miss.

The requests are in `requests.jsonl`, one complete request per line; `modelstack data tools` reads them there to
exclude them from training data. Initial and final states have the types of `mcp-tasks` (`executed.task`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Discriminator

from evals.case import Case
from evals.harness.case_record import CaseRecord
from evals.tool_use.executed.task import End, NumberAnswer, Server, Solution, Task, WordsAnswer, case_of
from evals.tool_use.first_hour.household import START
from modelstack.files import json_lines

SERVERS: tuple[Server, ...] = ("filesystem", "sqlite", "time")
"""All servers for each request: a new user does not choose servers before asking."""
Kind = Literal[
    "small talk",
    "counting",
    "finding",
    "reading",
    "listing",
    "querying",
    "converting",
    "changing",
    "two steps",
    "impossible",
]


@dataclass(frozen=True, slots=True)
class RoundedCheck:
    """The answer must state a number that may be rounded."""

    value: float
    within: float
    """Largest accepted difference."""
    forbidden: tuple[float, ...]
    kind: Literal["rounded"] = "rounded"


@dataclass(frozen=True, slots=True)
class ClockCheck:
    """The answer must state the current weekday, time or date, some days ahead."""

    asks: Literal["weekday", "time", "date"]
    zone: str
    days_ahead: int = 0
    kind: Literal["clock"] = "clock"


@dataclass(frozen=True, slots=True)
class TalkCheck:
    """The answer must be small talk: without a tool call and relevant."""

    mentions: tuple[str, ...]
    """Beginnings of words or phrases, one of which must occur; if empty, any answer with enough new words
    passes."""
    min_new_words: int = 1
    """Minimum number of words that do not occur in the request."""
    kind: Literal["talk"] = "talk"


@dataclass(frozen=True, slots=True)
class DoneCheck:
    """The answer must report success; the final state shows whether the task was done."""

    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class DeclineCheck:
    """The answer must say in words that the request cannot be done."""

    claims: tuple[str, ...]
    """Words that falsely claim success."""
    kind: Literal["decline"] = "decline"


Check = NumberAnswer | WordsAnswer | RoundedCheck | ClockCheck | TalkCheck | DoneCheck | DeclineCheck


@dataclass(frozen=True, slots=True)
class Request:
    """A line of `requests.jsonl`."""

    id: str
    kind: Kind
    request: str
    check: Annotated[Check, Discriminator("kind")]
    reference: Solution
    """A correct solution; in its answer {now} stands for the value that a `ClockCheck` asks for."""
    wrong: Solution
    """A near miss, which must fail."""
    ends: tuple[End, ...] = (End(),)
    """Acceptable final states, one of which must be reached; the first is the reference's."""

    @property
    def task(self) -> Task:
        """The request with its first final state as a task of `mcp-tasks`."""
        return Task(self.id, self.request, SERVERS, START, self.reference, self.wrong, end=self.ends[0])

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The request as one task for each acceptable final state."""
        return tuple(replace(self.task, end=end) for end in self.ends)


REQUEST = CaseRecord("request", Request)
request_of = REQUEST.of
"""Returns the request of a case, as described in `CaseRecord.of`."""


@cache
def first_hour_requests() -> tuple[Request, ...]:
    """Return all requests, in the order of the file."""
    lines = json_lines(files("evals.tool_use.first_hour").joinpath("requests.jsonl"))
    return tuple(REQUEST.from_json(line) for line in lines)


def case_of_request(request: Request, play: str | None = None) -> Case:
    """Return the case of a request; with `play`, a script plays it instead of the model."""
    case = case_of(request.task)
    data = {**case.data, "play": play, **REQUEST.data(request)}
    return replace(case, group=request.kind, data=data)
