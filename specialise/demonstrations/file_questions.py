"""Questions about made-up files: the types that all makers of notes share, and their word stocks."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from modelstack.sft.tool_data.spoken import Scene, listed


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask about a file."""

    asked: tuple[str, ...]
    """Ways to ask; `{file}` is what the file is called."""
    answers: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """Ways to ask that do not say where it stands."""
    keyword: str = ""
    """A word of those by which the file is found."""
    is_in_line: bool = True
    """Whether a line with the keyword tells the answer."""
    tail: int = 0
    """Number of last lines that tell the answer; 0: the whole file is needed."""


@dataclass(frozen=True, slots=True)
class Notes:
    """The text of a file and what can be asked about it."""

    text: str
    questions: tuple[Question, ...]
    suffixes: tuple[str, ...] = (".md", ".txt")
    stems: tuple[str, ...] = ()
    """Names that suit the file; empty: anything."""


@cache
def stock() -> dict[str, Any]:
    """Return the words that files are made up from, from notes.toml."""
    text = files("specialise.demonstrations").joinpath("notes.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def heading(now: Scene, text: str) -> list[str]:
    """Return the lines of a heading, some with a blank line after it."""
    return now.one(([f"# {text}", ""], [text, ""], [f"{text}:"], [text, "=" * len(text)], [f"## {text}", ""]))


def written(day: date) -> str:
    """Return a date as "3 March"."""
    return f"{day.day} {day:%B}"


def counted(names: Sequence[str], one: str, many: str) -> tuple[str, ...]:
    """Return answers to a question of how many: the names, and then how many they are.

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
