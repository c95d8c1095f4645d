"""A request: what the newcomer types, how one sees that it was answered, and two ways through it.

The requests are in `requests.jsonl`, one a line, with all that belongs to them; `modelstack data tools` reads them
there to keep them out of training data. Start and end states are those of `mcp-tasks` (`executed.task`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator

from evals.case import Case
from evals.tool_use.executed.task import End, NumberAnswer, Server, Solution, Task, WordsAnswer, case_of
from evals.tool_use.first_hour.household import START

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SERVERS: tuple[Server, ...] = ("filesystem", "sqlite", "time")
"""All of them for each request: a newcomer does not choose servers before asking."""
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
    """The answer states a number that may be rounded."""

    value: float
    within: float
    """Largest difference."""
    forbidden: tuple[float, ...]
    kind: Literal["rounded"] = "rounded"


@dataclass(frozen=True, slots=True)
class ClockCheck:
    """The answer states what the clock says, some days ahead."""

    asks: Literal["weekday", "time", "date"]
    zone: str
    days_ahead: int = 0
    kind: Literal["clock"] = "clock"


@dataclass(frozen=True, slots=True)
class TalkCheck:
    """The answer is small talk: made without a tool, and to the point."""

    mentions: tuple[str, ...]
    """Beginnings of words or phrases, of which one must occur; empty: any answer with enough words of its own."""
    min_new_words: int = 1
    """Words that are not the user's."""
    kind: Literal["talk"] = "talk"


@dataclass(frozen=True, slots=True)
class DoneCheck:
    """The answer says that it is done; the end state shows whether it was."""

    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class DeclineCheck:
    """The answer says in words that this cannot be done."""

    claims: tuple[str, ...]
    """Words that pretend that it was done."""
    kind: Literal["decline"] = "decline"


Check = NumberAnswer | WordsAnswer | RoundedCheck | ClockCheck | TalkCheck | DoneCheck | DeclineCheck


@dataclass(frozen=True, slots=True)
class Request:
    """One line of `requests.jsonl`."""

    id: str
    kind: Kind
    request: str
    check: Annotated[Check, Discriminator("kind")]
    reference: Solution
    """A right way; in its answer {weekday}, {time} and {date} stand for what a `ClockCheck` asks."""
    wrong: Solution
    """A near miss."""
    ends: tuple[End, ...] = (End(),)
    """Right ends, of which one must be reached; the first is the reference's."""

    @property
    def task(self) -> Task:
        """The request with its first end as a task of `mcp-tasks`."""
        return Task(self.id, self.request, SERVERS, START, self.reference, self.wrong, end=self.ends[0])

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The request with each of its right ends."""
        return tuple(replace(self.task, end=end) for end in self.ends)


@cache
def first_hour_requests() -> tuple[Request, ...]:
    """Return all requests, in the order of the file."""
    lines = files("evals.tool_use.first_hour").joinpath("requests.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_adapter().validate_json(line) for line in lines)


def case_of_request(request: Request, play: str | None = None) -> Case:
    """Return the case of a request; `play` has it played by a script instead of the model."""
    case = case_of(request.task)
    data = {**case.data, "play": play, "request": _adapter().dump_python(request, mode="json")}
    return replace(case, group=request.kind, data=data)


def request_of(case: Case) -> Request:
    """Return the request that a case carries.

    Raises:
        KeyError: the case is not one of this suite.
        pydantic.ValidationError: its request is damaged.
    """
    return _adapter().validate_python(case.data["request"])


@cache
def _adapter() -> TypeAdapter[Request]:
    from pydantic import TypeAdapter

    return TypeAdapter(Request)
