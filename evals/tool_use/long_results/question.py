"""A question: its document, what the user types, which facts the answer must state, and which lines show them.

The questions are in `requests.jsonl`, one a line, with all that belongs to them; `modelstack data tools` reads
them there to keep them out of training data. The documents are files below `documents/`, one folder for each. A
question is asked over exactly that folder, in which two or three short files lie beside the document.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator

from evals.case import Case
from evals.tool_use.executed.task import (
    NumberAnswer,
    Server,
    Solution,
    Start,
    Task,
    WordsAnswer,
    call,
    case_of,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SERVERS: tuple[Server, ...] = ("filesystem",)
READING, SEARCHING = "read_text_file", "search_text"
"""Tools whose results show a part of a document."""
Kind = Literal["first third", "middle", "last third", "two places", "not there"]
DocumentKind = Literal[
    "service log",
    "orders table",
    "minutes",
    "configuration reference",
    "contract",
    "API output",
    "directory listing",
    "release notes",
    "recipes",
    "visitor information",
]
DOCUMENTS: dict[DocumentKind, str] = {
    "service log": "ferry-bookings/booking.log",
    "orders table": "coffee-orders/orders-q3.csv",
    "minutes": "cooperative-minutes/minutes-2026.md",
    "configuration reference": "tidegate/README.md",
    "contract": "rental-contract/contract.txt",
    "API output": "charging-sites/sites.json",
    "directory listing": "film-archive/disk-listing.txt",
    "release notes": "quillpad/RELEASES.md",
    "recipes": "cookbook/family-recipes.md",
    "visitor information": "clock-museum/visit.md",
}
"""Path of each document below `documents/`; its folder is what the server serves."""


@dataclass(frozen=True, slots=True)
class DateAnswer:
    """The answer states a day, in any usual form; without a year it is the expected one."""

    value: date
    forbidden: tuple[date, ...]
    kind: Literal["date"] = "date"


@dataclass(frozen=True, slots=True)
class UnstatedAnswer:
    """The answer says that the document does not state what was asked."""

    forbidden: tuple[str, ...]
    """Neighbours' values, which a guess would give, as beginnings of words."""
    kind: Literal["unstated"] = "unstated"


Fact = NumberAnswer | WordsAnswer | DateAnswer | UnstatedAnswer


@dataclass(frozen=True, slots=True)
class Question:
    """Question about a document, a line of `requests.jsonl`."""

    id: str
    document: DocumentKind
    kind: Kind
    request: str
    facts: tuple[Annotated[Fact, Discriminator("kind")], ...]
    """All of them must be right."""
    lines: tuple[int, ...]
    """Lines of the document that show it, counted from 1; none where it is not there."""
    reference: str
    """A right answer."""
    wrong: str
    """A neighbour's value."""

    @property
    def file_name(self) -> str:
        """Path of the document as the server names it."""
        return DOCUMENTS[self.document].rpartition("/")[2]

    @property
    def is_there(self) -> bool:
        """Whether the document states what is asked."""
        return self.kind != "not there"

    @property
    def task(self) -> Task:
        """The question as a task of `mcp-tasks` that changes nothing."""
        look = (call(READING, path=self.file_name),)
        return Task(
            id=self.id,
            prompt=self.request,
            servers=SERVERS,
            start=Start(folder_of(self.document)),
            reference=Solution(look, self.reference),
            wrong=Solution(look, self.wrong),
        )


@cache
def questions() -> tuple[Question, ...]:
    """Return all questions, in the order of the file."""
    lines = (
        files("evals.tool_use.long_results").joinpath("requests.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return tuple(_adapter().validate_json(line) for line in lines)


@cache
def folder_of(document: DocumentKind) -> dict[str, str]:
    """Return the text of each file that is served with a document, by name."""
    folder = files("evals.tool_use.long_results").joinpath("documents", DOCUMENTS[document].partition("/")[0])
    return {
        entry.name: entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda e: e.name)
    }


def text_of(question: Question) -> str:
    """Return the text of a question's document."""
    return folder_of(question.document)[question.file_name]


def case_of_question(question: Question, play: str | None = None) -> Case:
    """Return the case of a question; `play` has it played by a script instead of the model."""
    case = case_of(question.task)
    data = {**case.data, "play": play, "question": _adapter().dump_python(question, mode="json")}
    return replace(case, group=question.document, data=data)


def question_of(case: Case) -> Question:
    """Return the question that a case carries.

    Raises:
        KeyError: the case is not one of this suite.
        pydantic.ValidationError: its question is damaged.
    """
    return _adapter().validate_python(case.data["question"])


@cache
def _adapter() -> TypeAdapter[Question]:
    from pydantic import TypeAdapter

    return TypeAdapter(Question)
