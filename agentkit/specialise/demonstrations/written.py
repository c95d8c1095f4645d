"""Individually written conversations: tasks of several steps and questions about long documents, not templates.

A kit is a folder in `written/`. `files/` and `tables.sql` are the initial world of each of its conversations.
`conversations.json` holds the requests, their calls, the answers, and the final state of files and rows. A large
language model wrote them. Playing a kit on the servers checks it: no call may fail, the final state must match,
and each number of an answer must have been read or computed by a tool, unless the kit lists it as counted.
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

from agentkit.specialise.demonstrations.script import Script, Step
from agentkit.specialise.demonstrations.world import world_database
from modelstack.data.examples import Call
from modelstack.errors import UserError

_NUMBER = re.compile(r"\d+(?:,\d{3}(?!\d))*(?:[.:]\d+)*")
_SECONDS = re.compile(r"(?<=:\d\d):\d\d")


class Mistake(BaseModel):
    """Failing calls that are not trained on: the next step recovers from their error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mistake: tuple[tuple[str, dict[str, Any]], ...]


class Turn(BaseModel):
    """A request, the calls that serve it, and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: str
    steps: tuple[tuple[tuple[str, dict[str, Any]], ...] | Mistake, ...] = ()
    """Replies with one or several calls, by name and arguments."""
    answer: str
    counted: tuple[str, ...] = ()
    """Numbers of the answer that no tool states: a count of a few things, or a value implied by words."""

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
    """State of the world after a conversation; parts that are not named are not checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Mapping[str, Sequence[Sequence[Any]]] = Field(default_factory=dict)
    """Expected rows by query."""
    files: Mapping[str, str | None] = Field(default_factory=dict)
    """Expected text by path; None: the file must not exist."""


class Conversation(BaseModel):
    """Turns in one world."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: tuple[str, ...]
    """Names out of "files", "tables" and "time"."""
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
        """Write this world to an empty folder and an empty database."""
        for path, text in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        with world_database(database) as connection:
            connection.executescript(f"BEGIN;\n{self.sql}\n;COMMIT;")


_CONVERSATIONS = TypeAdapter(tuple[Conversation, ...])


@cache
def written_kits() -> tuple[Kit, ...]:
    """Return all kits, in the order of their names."""
    with as_file(files("agentkit.specialise.demonstrations").joinpath("written")) as folder:
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
    """Check the state of a world after a conversation.

    Raises:
        UserError: A file or a row differs.
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
    """Check that every number of an answer was stated before.

    Args:
        turn: The turn.
        seen: Text of the whole conversation before the answer.

    Raises:
        UserError: A number is neither in `seen` nor listed as counted.
    """
    # A comma may separate the cells of a row, and an answer may drop the seconds of a time.
    readings = (seen, seen.replace(",", " "), _SECONDS.sub("", seen))
    known = {*(number for reading in readings for number in _numbers(reading)), *turn.counted}
    unknown = [number for number in _numbers(turn.answer) if number not in known]
    if unknown:
        raise UserError(
            f"the answer {turn.answer!r} states {', '.join(unknown)}, which nothing before it states; "
            f"let a tool compute it, or list it as counted"
        )


def _numbers(text: str) -> Iterator[str]:
    """Yield the numbers of a text, without thousands separators and trailing zeros of decimals."""
    for found in _NUMBER.findall(text):
        plain = found.replace(",", "")
        yield plain.rstrip("0").rstrip(".") if "." in plain else plain
