"""A task: where it starts, what the user says, which end is right, and two ways through it.

Tasks are data, so a case carries its own whole and scoring needs nothing but the case and the run. Checking the
world after an agent instead of comparing its calls follows tau-bench (Yao et al. 2024); graded tasks over real MCP
servers with a checker each follow MCPMark (2025). Unlike both, every task also carries a near miss that must fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from evals.case import Case

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Server = Literal["filesystem", "sqlite", "time"]
Play = Literal["reference", "nothing", "echo", "wrong"]
Cell = int | float | str | None
Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """The folder and the database as a case finds them."""

    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Text by path; a path that ends in a slash is an empty folder and has the text ""."""
    modified: Mapping[str, str] = field(default_factory=dict[str, str])
    """Time of the last change by path, ISO 8601 with offset; `disk.DEFAULT_MODIFIED` for the others."""
    sql: str = ""
    """The script that makes the database; empty where there is none."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """What is different in one table at the end; a changed row is one removed and one added."""

    table: str
    removed: tuple[Row, ...] = ()
    added: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """What is different at the end; all the rest must be as it was."""

    files: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """New text by path, None for what is gone; folders as in `Start.files`, those above a new file are implied."""
    rows: tuple[RowChange, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberAnswer:
    """The answer states one number."""

    value: float
    forbidden: tuple[float, ...]
    """Numbers that an agent would state which looked at the wrong thing, or lists all that it saw."""
    kind: Literal["number"] = "number"


@dataclass(frozen=True, slots=True)
class WordsAnswer:
    """The answer states each of some things, in any order."""

    required: tuple[tuple[str, ...], ...]
    """One tuple for each thing: the ways to say it, of which one must occur as whole words."""
    forbidden: tuple[str, ...]
    """The other candidates."""
    kind: Literal["words"] = "words"


Answer = NumberAnswer | WordsAnswer


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Solution:
    """A way through a task: calls, one a turn, then the answer."""

    calls: tuple[Call, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """One task."""

    id: str
    prompt: str
    servers: tuple[Server, ...]
    start: Start
    reference: Solution
    """The fewest calls that reach the end for somebody who sees only the prompt."""
    wrong: Solution
    """A near miss."""
    answer: Answer | None = None
    """None where only the end counts."""
    end: End = End()

    @property
    def n_calls(self) -> int:
        """How many calls the reference makes: the grade."""
        return len(self.reference.calls)

    @property
    def group(self) -> str:
        """Servers and grade in words."""
        return f"{' + '.join(self.servers)}, {self.n_calls} {'call' if self.n_calls == 1 else 'calls'}"


def call(tool: str, /, **arguments: Any) -> Call:
    """Return a call for a solution."""
    return Call(tool, arguments)


def case_of(task: Task, play: Play | None = None) -> Case:
    """Return the case of a task; `play` has it played by a script instead of the model."""
    data = {"task": _adapter().dump_python(task, mode="json"), "play": play}
    return Case(id=task.id, prompt=task.prompt, group=task.group, data=data)


def task_of(case: Case) -> Task:
    """Return the task that a case carries.

    Raises:
        KeyError: the case is not one of this suite.
        pydantic.ValidationError: its task is damaged.
    """
    return _adapter().validate_python(case.data["task"])


@cache
def _adapter() -> TypeAdapter[Task]:
    from pydantic import TypeAdapter

    return TypeAdapter(Task)
