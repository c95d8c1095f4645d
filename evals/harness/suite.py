"""A suite: cases, how one is put to a model, and how the answer is scored.

Nothing here knows inspect-ai; `evals.harness.inspect_task` turns a suite into an Inspect task.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelSettings
from evals.case import Case, Run, Score

Scorer = Callable[[Case, Run], Score]
ChoiceT = TypeVar("ChoiceT", bound=str)


class Solver(Protocol):
    """Puts one case to a model and reports what happened.

    A solver may raise: the harness turns an exception into a run with status "failed", and a time-out into
    one with "timed_out". It does not measure time; the harness does.
    """

    def __call__(self, case: Case, model: Model, settings: ModelSettings) -> Awaitable[Run]:
        """Solve one case; several may run side by side."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """A further table below the summary: attack success against refusals, coverage of schemas, and so on."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of cases with one way to solve and one to score them."""

    name: str
    version: int
    """Raised when cases, solver or scorer change so that scores do not compare any more."""
    description: str
    """One line for `agentkit eval`."""
    load: Callable[[Mapping[str, str]], Sequence[Case]]
    """Return the cases. The argument holds the suite's own options (`--option key=value`); an unknown key is a
    UserError, and so is a missing file, with its path and how to get it. Order and ids are fixed."""
    solve: Solver
    score: Scorer
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """The options that `load` knows, with a line on each."""
    tables: Callable[[Sequence[tuple[Case, Run, Score]]], Sequence[Table]] | None = None
    """Further tables over all scored runs."""
    plots: Callable[[Sequence[tuple[Case, Run, Score]], Path], Sequence[Path]] | None = None
    """Draw figures into a folder and return their paths."""
    needs_model: bool = True
    """False where the suite measures something else (a classifier, a checker), and `--model none` is right."""
    case_timeout_s: float = 300.0


SUITES: dict[str, str] = {
    "bfcl": "evals.tool_use.bfcl.suite:SUITE",
    "bfcl-multi-turn": "evals.tool_use.bfcl.multi_turn_suite:SUITE",
    "natural": "evals.tool_use.natural.suite:SUITE",
    "examples": "evals.tool_use.examples.suite:SUITE",
    "first-hour": "evals.tool_use.first_hour.suite:SUITE",
    "long-results": "evals.tool_use.long_results.suite:SUITE",
    "mcp-tasks": "evals.tool_use.executed.suite:SUITE",
    "structured-output": "evals.structured_output.suite:SUITE",
    "refusals": "evals.refusals.suite:SUITE",
    "injection": "evals.injection.suite:SUITE",
    "agentdojo": "evals.injection.agentdojo_suite:SUITE",
    "gsm8k": "evals.language.gsm8k:SUITE",
    "ifeval": "evals.language.ifeval.suite:SUITE",
    "humaneval": "evals.language.humaneval:SUITE",
    "mbpp": "evals.language.mbpp:SUITE",
    "choices": "evals.language.choices:SUITE",
    "bits-per-byte": "evals.language.bits_per_byte:SUITE",
}
"""Name of each suite and where it is: "module:attribute"; the attribute is a `Suite`."""


def find_suite(name: str) -> Suite:
    """Import and return a suite.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.0)
        raise UserError(f"suite {name!r} is not known; nearest: {near[0]!r}. `agentkit eval` lists all of them.")
    module, _, attribute = SUITES[name].partition(":")
    suite = getattr(import_module(module), attribute)
    assert isinstance(suite, Suite)
    return suite


def judge(suite: Suite, case: Case, run: Run) -> Score:
    """Return a suite's score of a run.

    Raises:
        RuntimeError: the scorer itself failed. That is its defect and no property of the run, so it is no score.
    """
    try:
        return suite.score(case, run)
    except Exception as error:
        raise RuntimeError(
            f"the scorer of suite {suite.name!r} failed on case {case.id!r}: {type(error).__name__}: {error}. "
            f"The runs are kept; with a mended scorer the same command scores them."
        ) from error


def check_options(suite: str, given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Refuse options that a suite does not know; `load` functions call it first.

    Raises:
        UserError: an option is not known.
    """
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"nearest: {near[0]!r}" if near else "it has none"
            raise UserError(f"suite {suite!r} has no option {key!r}; {hint}.")


def check_choice(suite: str, option: str, value: str, known: Sequence[ChoiceT]) -> ChoiceT:
    """Return the value of an option that takes only some values.

    Raises:
        UserError: it is none of them.
    """
    for choice in known:
        if choice == value:
            return choice
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
    raise UserError(
        f"option {option}={value!r} of {suite!r} must be one of {', '.join(known)}; nearest: {near!r}."
    )
