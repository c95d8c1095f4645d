"""Questions about generated files: types shared by all makers of notes, and their word stocks."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from modelstack.data.tools.spoken import Scene, listed


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a file."""

    asked: tuple[str, ...]
    """Phrasings; `{file}` stands for the file's name."""
    answers: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """Phrasings that do not mention the file."""
    keyword: str = ""
    """Search word that finds the file."""
    is_in_line: bool = True
    """True if a line with the keyword contains the answer."""
    tail: int = 0
    """Number of last lines that contain the answer; 0: the whole file is needed."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Text of a file and questions about it."""

    text: str
    questions: tuple[Question, ...]
    suffixes: tuple[str, ...] = (".md", ".txt")
    stems: tuple[str, ...] = ()
    """Suitable names for the file; empty: any."""


@cache
def stock() -> dict[str, Any]:
    """Return the word stocks for files, from notes.toml."""
    text = files("agentkit.specialise.demonstrations").joinpath("notes.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def heading(now: Scene, text: str) -> list[str]:
    """Return the lines of a heading, some with a blank line after it."""
    return now.one(([f"# {text}", ""], [text, ""], [f"{text}:"], [text, "=" * len(text)], [f"## {text}", ""]))


def written(day: date) -> str:
    """Return a date as "3 March"."""
    return f"{day.day} {day:%B}"


def counted(names: Sequence[str], one: str, many: str) -> tuple[str, ...]:
    """Return answers to "how many": the names, then their number.

    A model that has just written the names can count them; one that begins with the total has to guess it.
    """
    n = len(names)
    if n == 0:
        return (f"None of the {many}.", f"0: none of the {many}.")
    if n == 1:
        return (f"One {one}: {names[0]}.", f"1: {names[0]}.")
    return (f"{listed(names)}: {n} {many}.", f"{listed(names)}. That makes {n} {many}.")


def added(numbers: Sequence[int]) -> str:
    """Return a sum as "3 + 4 = 7"."""
    return f"{' + '.join(map(str, numbers))} = {sum(numbers)}"
