"""Data of a task: initial state, prompt, expected final state, a reference solution and a near miss.

A case contains its whole task, so scoring needs only the case and the run. Checking the final state instead of the
calls follows tau-bench (Yao et al. 2024); graded tasks over real MCP servers, each with its own checker, follow
MCPMark (2025). Unlike in both, every task also has a near miss that must fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evals.case import Case
from evals.harness.case_record import CaseRecord

Server = Literal["filesystem", "sqlite", "time"]
Play = Literal["reference", "nothing", "echo", "wrong"]
Cell = int | float | str | None
Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Initial folder and database of a case."""

    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """File text by path; a path that ends in a slash is an empty folder with the text ""."""
    modified: Mapping[str, str] = field(default_factory=dict[str, str])
    """Modification time by path, ISO 8601 with offset; other entries have `disk.DEFAULT_MODIFIED`."""
    sql: str = ""
    """SQL script that creates the database; empty if there is none."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """Expected changes in one table; a changed row is one removed and one added row."""

    table: str
    removed: tuple[Row, ...] = ()
    added: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Expected changes of the final state; everything else must be unchanged."""

    files: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """New text by path, or None for a deleted file; folders as in `Start.files`. Parent folders of a new file are
    implied."""
    rows: tuple[RowChange, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberAnswer:
    """The answer must state one number."""

    value: float
    forbidden: tuple[float, ...]
    """Numbers that an agent would state if it read the wrong entry or listed everything it read."""
    kind: Literal["number"] = "number"


@dataclass(frozen=True, slots=True)
class WordsAnswer:
    """The answer must state several items, in any order."""

    required: tuple[tuple[str, ...], ...]
    """Alternative phrases of each item, one of which must occur as whole words."""
    forbidden: tuple[str, ...]
    """Other candidates, none of which may occur."""
    kind: Literal["words"] = "words"


Answer = NumberAnswer | WordsAnswer


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution of a task: calls, one per turn, then the answer."""

    calls: tuple[Call, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its expected result and two scripts."""

    id: str
    prompt: str
    servers: tuple[Server, ...]
    start: Start
    reference: Solution
    """The shortest sequence of calls that an agent with only the prompt needs to reach the final state."""
    wrong: Solution
    """A near miss, which must fail."""
    answer: Answer | None = None
    """Expected answer; None if only the final state counts."""
    end: End = End()

    @property
    def n_calls(self) -> int:
        """Number of calls of the reference; the grade of the task."""
        return len(self.reference.calls)

    @property
    def group(self) -> str:
        """Servers and grade in words."""
        return f"{' + '.join(self.servers)}, {self.n_calls} {'call' if self.n_calls == 1 else 'calls'}"


def call(tool: str, /, **arguments: Any) -> Call:
    """Return a call for a solution."""
    return Call(tool, arguments)


TASK = CaseRecord("task", Task)
task_of = TASK.of
"""Returns the task of a case, as described in `CaseRecord.of`."""


def case_of(task: Task, play: Play | None = None) -> Case:
    """Return the case of a task; with `play`, a script plays it instead of the model."""
    data = {**TASK.data(task), "play": play}
    return Case(id=task.id, prompt=task.prompt, group=task.group, data=data)
