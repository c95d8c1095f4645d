"""Conversations written one by one: tasks of several steps and questions about long documents, without templates.

A kit is a folder in `written/`: `files/` and `tables.sql` are the world that each of its conversations begins
with, `conversations.json` says what is asked, which calls serve it, what the answer is, and how files and rows are
to be at the end. A large language model wrote them. Playing a kit on the servers checks it: no call may fail, the
end must be as stated, and each number of an answer must have been read or computed by a tool, unless the kit lists
it among what was counted.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from modelstack.errors import UserError
from modelstack.sft.examples import Call
from specialise.demonstrations.script import Script, Step

_NUMBER = re.compile(r"\d+(?:,\d{3}(?!\d))*(?:[.:]\d+)*")
_SECONDS = re.compile(r"(?<=:\d\d):\d\d")


class Mistake(BaseModel):
    """Calls that fail and are not learnt: the next step recovers from their error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mistake: tuple[tuple[str, dict[str, Any]], ...]


class Turn(BaseModel):
    """A request, the calls that serve it, and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: str
    steps: tuple[tuple[tuple[str, dict[str, Any]], ...] | Mistake, ...] = ()
    """Each a reply of one or several calls, by name and arguments."""
    answer: str
    counted: tuple[str, ...] = ()
    """Numbers of the answer that no tool states: a few things counted, or a value that words imply."""

    def script(self) -> Script:
        """Return the turn as a script."""
        yield self.ask
        for step in self.steps:
            is_mistake = isinstance(step, Mistake)
            calls = step.mistake if is_mistake else step
            yield Step(
                tuple(Call(name=name, arguments=arguments) for name, arguments in calls),
                is_mistake=is_mistake,
                is_learnt=not is_mistake,
            )
        return self.answer


class End(BaseModel):
    """How the world is to be after a conversation; what is not named may be anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Mapping[str, Sequence[Sequence[Any]]] = Field(default_factory=dict)
    """By query: its rows."""
    files: Mapping[str, str | None] = Field(default_factory=dict)
    """By path: the whole text, None where no such file may be."""


class Conversation(BaseModel):
    """Turns in one world."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: tuple[str, ...]
    """Of "files", "tables" and "time"."""
    turns: tuple[Turn, ...] = Field(min_length=1)
    end: End = End()


@dataclass(frozen=True, slots=True)
class Kit:
    """A world and the conversations in it."""

    name: str
    conversations: tuple[Conversation, ...]
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Text by path."""
    sql: str = ""

    def write(self, folder: Path, database: Path) -> None:
        """Make an empty folder and an empty database this world."""
        for path, text in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.executescript(self.sql)


_CONVERSATIONS = TypeAdapter(tuple[Conversation, ...])


@cache
def written_kits() -> tuple[Kit, ...]:
    """Return all kits, in the order of their names."""
    with as_file(files("specialise.demonstrations").joinpath("written")) as folder:
        return tuple(_kit(each) for each in sorted(folder.iterdir()) if each.is_dir())


def _kit(folder: Path) -> Kit:
    root, tables = folder / "files", folder / "tables.sql"
    return Kit(
        name=folder.name,
        conversations=_CONVERSATIONS.validate_json(folder.joinpath("conversations.json").read_bytes()),
        files={
            path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(root.rglob("*"))
            if path.is_file()
        },
        sql=tables.read_text(encoding="utf-8") if tables.exists() else "",
    )


def require_end(end: End, folder: Path, database: Path) -> None:
    """Check that a world is as a conversation is to leave it.

    Raises:
        UserError: A file or a row is another.
    """
    for path, text in end.files.items():
        found = (folder / path).read_text(encoding="utf-8") if (folder / path).is_file() else None
        if found != text:
            raise UserError(f"{path} is to end as {text!r}, and is {found!r}")
    with closing(sqlite3.connect(database)) as connection:
        for query, rows in end.rows.items():
            found_rows = [list(row) for row in connection.execute(query)]
            if found_rows != [list(row) for row in rows]:
                raise UserError(f"{query!r} is to give {rows}, and gives {found_rows}")


def require_known_numbers(turn: Turn, seen: str) -> None:
    """Check that an answer states no number that nobody told.

    Args:
        turn: The turn.
        seen: Everything that stood in the conversation before the answer.

    Raises:
        UserError: A number is neither in `seen` nor listed as counted.
    """
    # A comma may part the cells of a row, and a time may be told without its seconds.
    readings = (seen, seen.replace(",", " "), _SECONDS.sub("", seen))
    known = {*(number for reading in readings for number in _numbers(reading)), *turn.counted}
    unknown = [number for number in _numbers(turn.answer) if number not in known]
    if unknown:
        raise UserError(
            f"the answer {turn.answer!r} states {', '.join(unknown)}, which nothing before it states; "
            f"let a tool compute it, or list it as counted"
        )


def _numbers(text: str) -> Iterator[str]:
    """Yield the numbers of a text, without marks of thousands and closing zeros of decimals."""
    for found in _NUMBER.findall(text):
        plain = found.replace(",", "")
        yield plain.rstrip("0").rstrip(".") if "." in plain else plain
