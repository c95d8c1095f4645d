"""The demo's four tasks and the checks of their answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

Check = Callable[[str, Path], str]
"""Maps (answer, folder of the notes) to the fault found; "" if there is none."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class DemoTask:
    """A request and the check of its outcome."""

    text: str
    check: Check
    new_file: str | None = None
    """The one file to create; all other notes must stay unchanged."""


def unsolved(task: DemoTask, answer: str, notes: Path) -> str:
    """Return why a task is not solved; "" if it is solved."""
    if not answer.strip():
        return "there is no answer"
    made = {path.relative_to(notes).as_posix() for path in notes.rglob("*")}
    originals = {file.name: file.read_bytes() for file in files("agentkit.cli").joinpath("demo_files").iterdir()}
    changed = [
        n for n, content in originals.items() if not (notes / n).is_file() or (notes / n).read_bytes() != content
    ]
    if changed:
        return f"{changed[0]!r} was changed"
    if task.new_file is not None and task.new_file not in made:
        return f"there is no file {task.new_file!r}"
    if extra := sorted(made - originals.keys() - {task.new_file}):
        return f"{extra[0]!r} was made, which nobody asked for"
    return task.check(answer, notes)


def states_number(wanted: float, request: str) -> Check:
    """Return a check that the answer states `wanted` and no other number, except those of the request."""
    given = numbers_in(request)

    def check(answer: str, notes: Path) -> str:
        found = numbers_in(answer) - given
        return "" if found == {wanted} else f"{wanted:g} is right; the answer is {answer[:80]!r}"

    return check


def names_columns(*columns: str) -> Check:
    """Return a check that the answer lists these columns and nothing else."""

    def check(answer: str, notes: Path) -> str:
        words = set(re.findall(r"\w+", answer))
        items = (item.strip(" \t`*'\"-.") for item in re.split(r"[,;:\n]|\band\b", answer))
        listed = {item for item in items if re.fullmatch(r"\w+", item)}
        if missing := [column for column in columns if column not in words]:
            return f"the column {missing[0]!r} is missing; the answer is {answer[:80]!r}"
        return "" if (extra := sorted(listed - set(columns))) == [] else f"there is no column {extra[0]!r}"

    return check


def wrote_number(wanted: float, file: str) -> Check:
    """Return a check that a file holds the number `wanted` and no other."""

    def check(answer: str, notes: Path) -> str:
        text = (notes / file).read_text(encoding="utf-8", errors="replace")
        return "" if numbers_in(text) == {wanted} else f"{wanted:g} is right; {file} holds {text[:80]!r}"

    return check


def numbers_in(text: str) -> set[float]:
    """Return the numbers in a text, also as words from "two" to "ten"; "one" is too often a pronoun."""
    # Digits within a name, such as orders2, are not a number.
    found = {float(n.replace(",", ".")) for n in re.findall(rf"(?<![\w.,]){_NUMBER.pattern}(?![\w])", text)}
    words = re.findall(r"[a-z]+", text.casefold())
    return found | {float(n) for n, word in enumerate(_NUMBER_WORDS, start=1) if n > 1 and word in words}


_LINES = "How many lines does todo.md have?"
_COLUMNS = "What columns does the table orders have?"
_DEGREES = "The recipe says 180 degrees Celsius. How much is that in Fahrenheit?"
_PRICE = "What does a croissant cost? It is in prices.csv. Write the price to croissant.txt."

TASKS = (
    DemoTask(_LINES, states_number(9, _LINES)),
    DemoTask(_COLUMNS, names_columns("id", "customer_id", "day", "product", "quantity", "price_cent")),
    DemoTask(_DEGREES, states_number(356, _DEGREES)),
    DemoTask(_PRICE, wrote_number(1.4, "croissant.txt"), new_file="croissant.txt"),
)
"""The last task needs two tools."""
