"""Data of a question: document, prompt, facts that the answer must state, and the lines that show them.

The questions are in `requests.jsonl`, one complete question per line; `modelstack data tools` reads them there to
exclude them from training data. The documents are below `documents/`, each in its own folder. The server serves
that folder, which holds the document and two or three short files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Discriminator

from evals.case import Case
from evals.harness.case_record import CaseRecord
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
from modelstack.files import json_lines

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
"""Path of each document below `documents/`; the server serves its folder."""


@dataclass(frozen=True, slots=True)
class DateAnswer:
    """The answer must state a date in any usual form; a missing year is taken as the expected one."""

    value: date
    forbidden: tuple[date, ...]
    kind: Literal["date"] = "date"


@dataclass(frozen=True, slots=True)
class UnstatedAnswer:
    """The answer must say that the document does not contain the requested fact."""

    forbidden: tuple[str, ...]
    """Beginnings of words: values of neighbouring entries, which a guess would state."""
    kind: Literal["unstated"] = "unstated"


Fact = NumberAnswer | WordsAnswer | DateAnswer | UnstatedAnswer


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a document; a line of `requests.jsonl`."""

    id: str
    document: DocumentKind
    kind: Kind
    request: str
    facts: tuple[Annotated[Fact, Discriminator("kind")], ...]
    """Facts of the answer; all must be correct."""
    lines: tuple[int, ...]
    """Lines of the document that show the facts, counted from 1; empty if the document does not state them."""
    reference: str
    """A correct answer."""
    wrong: str
    """A wrong answer with a neighbouring entry's value."""

    @property
    def file_name(self) -> str:
        """Path of the document as the server names it."""
        return DOCUMENTS[self.document].rpartition("/")[2]

    @property
    def is_there(self) -> bool:
        """Whether the document states the requested fact."""
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


QUESTION = CaseRecord("question", Question)
question_of = QUESTION.of
"""Returns the question of a case, as described in `CaseRecord.of`."""


@cache
def questions() -> tuple[Question, ...]:
    """Return all questions, in the order of the file."""
    lines = json_lines(files("evals.tool_use.long_results").joinpath("requests.jsonl"))
    return tuple(QUESTION.from_json(line) for line in lines)


@cache
def folder_of(document: DocumentKind) -> dict[str, str]:
    """Return the text of each file that is served with a document, by file name."""
    folder = files("evals.tool_use.long_results").joinpath("documents", DOCUMENTS[document].partition("/")[0])
    return {
        entry.name: entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda e: e.name)
    }


def text_of(question: Question) -> str:
    """Return the text of a question's document."""
    return folder_of(question.document)[question.file_name]


def case_of_question(question: Question, play: str | None = None) -> Case:
    """Return the case of a question; with `play`, a script plays it instead of the model."""
    case = case_of(question.task)
    data = {**case.data, "play": play, **QUESTION.data(question)}
    return replace(case, group=question.document, data=data)
