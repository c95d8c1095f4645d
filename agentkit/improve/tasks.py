"""Tasks of an improvement: a prompt with checks that a program decides, and the parts that they are split into.

A file of tasks is JSON lines: `{"prompt": ..., "expected": ...}`, or with `checks`, `solution` and `data`. The
part of a task follows from the seed and the prompts, not from the order of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from agentkit.errors import UserError

MAX_TASKS = 10_000
MAX_PROMPT_CHARS = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024
LEAST_HELD_BACK = 10
"""Fewest held-back tasks of a gate: the sign test needs six tasks that only the candidate gets right."""
_LEAST_TO_SEARCH = 4

Part = Literal["train", "selection", "held_back"]


class Call(BaseModel, frozen=True, extra="forbid"):
    """A call of a solution."""

    name: str = Field(min_length=1, max_length=200)
    arguments: dict[str, Any] = {}


class Checks(BaseModel, frozen=True, extra="forbid"):
    """Conditions on a run; all must hold for a score of 1."""

    answer_contains: tuple[str | tuple[str, ...], ...] = ()
    """Phrases that the answer must contain as whole words, in any case; a list holds alternatives."""
    answer_excludes: tuple[str, ...] = ()
    """Phrases that the answer must not contain."""
    answer_number: float | None = None
    """Number that the answer must contain."""
    calls: tuple[str, ...] = ()
    """Tools that must have been called with success, in this order; other calls may lie between."""
    forbidden_calls: tuple[str, ...] = ()
    """Tools that must not be called; a call counts as a violation at the gate, too."""
    files: dict[str, str | None] = {}
    """Text of files after the run by path; None: the file must be missing. Needs a world."""
    tables: dict[str, list[list[Any]]] = {}
    """Rows of tables after the run by `DATABASE.TABLE`, in any order. Needs a world."""
    only_these_change: bool = True
    """Whether every other file and table of the world must be as before; without a world it has no effect."""
    status: str = "completed"
    """Status of the run, such as "refused" for a request that must be refused."""


class Task(BaseModel, frozen=True, extra="forbid"):
    """A task that an agent is asked to do."""

    id: str = Field(min_length=1, max_length=200)
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    group: str = ""
    """Kind of task; each part gets its share of every kind."""
    checks: Checks = Checks()
    solution: tuple[Call, ...] = ()
    """Calls that solve the task, for demonstrations; empty if unknown."""
    data: dict[str, Any] = {}
    """Further input for a scorer of your own."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        """Accept `expected` for a phrase of the answer, and derive a missing id from the prompt."""
        if not isinstance(value, Mapping):
            return value
        fields = dict(cast("Mapping[str, Any]", value))
        expected = fields.pop("expected", None)
        if expected is not None:
            if "checks" in fields:
                raise ValueError("a task has `expected` or `checks`, not both")
            is_number = isinstance(expected, int | float) and not isinstance(expected, bool)
            fields["checks"] = {"answer_number": expected} if is_number else {"answer_contains": [expected]}
        if "id" not in fields and isinstance(fields.get("prompt"), str):
            fields["id"] = f"task-{_hash(fields['prompt'])[:12]}"
        return fields

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole task."""
        return _hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))


class SplitShares(BaseModel, frozen=True, extra="forbid"):
    """Shares of the tasks by part; the rest is held back."""

    train: float = Field(default=0.3, gt=0, lt=1)
    """Share on which candidates are made and first compared."""
    selection: float = Field(default=0.2, gt=0, lt=1)
    """Share by which one candidate is chosen."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.train + self.selection >= 1:
            raise ValueError(
                "train and selection together must be less than 1: the rest is held back for the gate"
            )
        return self


@dataclass(frozen=True, slots=True)
class Split:
    """Tasks by part."""

    train: tuple[Task, ...]
    selection: tuple[Task, ...]
    held_back: tuple[Task, ...]


def read_tasks(file: Path) -> list[Task]:
    """Read a file of tasks; a prompt that occurs again is left out.

    Raises:
        UserError: the file is missing or too large, a line is no task, or two tasks share an id.
    """
    if not file.is_file():
        raise UserError(f"tasks {str(file)!r}: there is no such file; give JSON lines with a prompt and checks.")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"tasks {str(file)!r} is larger than {MAX_FILE_BYTES} bytes; give fewer tasks.")
    found: list[Task] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(Task.model_validate_json(line))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "the line"
            raise UserError(f"{file}, line {number}: {where}: {fault['msg']}.") from error
    return checked_tasks(found)


def checked_tasks(tasks: Iterable[Task]) -> list[Task]:
    """Return tasks without those whose prompt occurred before.

    Raises:
        UserError: there are none or too many, or two share an id.
    """
    by_prompt: dict[str, Task] = {}
    for task in tasks:
        by_prompt.setdefault(normal_prompt(task.prompt), task)
    kept = list(by_prompt.values())
    if not 0 < len(kept) <= MAX_TASKS:
        raise UserError(f"{len(kept)} tasks: give at least 1 and at most {MAX_TASKS}.")
    ids = [task.id for task in kept]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise UserError(f"two tasks have the id {twice!r}: give each its own, or leave the ids out.")
    return kept


def split_tasks(tasks: Sequence[Task], shares: SplitShares, seed: int) -> Split:
    """Split tasks by a hash of seed and prompt; each group gives its share to every part.

    Raises:
        UserError: a part would be too small.
    """
    parts: dict[Part, list[Task]] = {"train": [], "selection": [], "held_back": []}
    for group in sorted({task.group for task in tasks}):
        members = [task for task in tasks if task.group == group]
        members.sort(key=lambda task: _hash(f"{seed}\0{normal_prompt(task.prompt)}"))
        for rank, task in enumerate(members):
            parts[_part((rank + 0.5) / len(members), shares)].append(task)
    split = Split(tuple(parts["train"]), tuple(parts["selection"]), tuple(parts["held_back"]))
    if len(split.held_back) < LEAST_HELD_BACK:
        raise UserError(
            f"{len(split.held_back)} of {len(tasks)} tasks are held back, and the gate needs {LEAST_HELD_BACK}: "
            f"give more tasks, or smaller shares `train` and `selection`."
        )
    if min(len(split.train), len(split.selection)) < _LEAST_TO_SEARCH:
        raise UserError(
            f"{len(split.train)} tasks for training and {len(split.selection)} for selection: both need "
            f"{_LEAST_TO_SEARCH}; give more tasks, or larger shares."
        )
    return split


def tasks_sha256(tasks: Iterable[Task]) -> str:
    """Return the SHA-256 of a set of tasks, whatever their order."""
    return _hash("".join(sorted(task.sha256 for task in tasks)))


def _part(quantile: float, shares: SplitShares) -> Part:
    if quantile < shares.train:
        return "train"
    return "selection" if quantile < shares.train + shares.selection else "held_back"


def normal_prompt(prompt: str) -> str:
    """Return a prompt as it is compared: in lower case, without differences in blanks."""
    return " ".join(prompt.casefold().split())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
