"""Suite: cases, a solver that puts a case to a model, and a scorer.

This module does not import inspect-ai; `evals.harness.inspect_task` converts a suite to an Inspect task.
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
    """Puts one case to a model and returns the run.

    A solver may raise. The harness turns an exception into a run with status "failed" and a time-out into
    "timed_out". The harness measures the time.
    """

    def __call__(self, case: Case, model: Model, settings: ModelSettings) -> Awaitable[Run]:
        """Solve one case; may be called for several cases concurrently."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """An additional table below the summary, for example attack success against refusals."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of cases with a solver and a scorer."""

    name: str
    version: int
    """Increased when cases, solver or scorer change so that scores are no longer comparable."""
    description: str
    """Help text for `agentkit eval`, on one line."""
    load: Callable[[Mapping[str, str]], Sequence[Case]]
    """Returns the cases in a fixed order with fixed ids.

    The argument holds the suite's options (`--option key=value`). An unknown key raises UserError, and so does a
    missing file; the message names its path and how to get it."""
    solve: Solver
    score: Scorer
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Help text of each option that `load` accepts."""
    tables: Callable[[Sequence[tuple[Case, Run, Score]]], Sequence[Table]] | None = None
    """Returns additional tables over all scored runs."""
    plots: Callable[[Sequence[tuple[Case, Run, Score]], Path], Sequence[Path]] | None = None
    """Draws figures into a folder and returns their paths."""
    needs_model: bool = True
    """False if the suite evaluates something other than a model (a classifier, a checker); then `--model none` is
    valid."""
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
"""Location of each suite as "module:attribute"; the attribute is a `Suite`."""


def find_suite(name: str) -> Suite:
    """Import and return a suite.

    Raises:
        UserError: no suite has this name.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.0)
        raise UserError(f"suite {name!r} is not known; nearest: {near[0]!r}. `agentkit eval` lists all of them.")
    module, _, attribute = SUITES[name].partition(":")
    suite = getattr(import_module(module), attribute)
    assert isinstance(suite, Suite)
    return suite


def judge(suite: Suite, case: Case, run: Run) -> Score:
    """Score a run with its suite's scorer.

    Raises:
        RuntimeError: the scorer itself failed; this is a defect of the scorer and not a score of the run.
    """
    try:
        return suite.score(case, run)
    except Exception as error:
        raise RuntimeError(
            f"the scorer of suite {suite.name!r} failed on case {case.id!r}: {type(error).__name__}: {error}. "
            f"The runs are kept; after the scorer is fixed, the same command scores them."
        ) from error


def check_options(suite: str, given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Check that a suite knows all given options; `load` functions call this first.

    Raises:
        UserError: an option is not known.
    """
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"nearest: {near[0]!r}" if near else "it has none"
            raise UserError(f"suite {suite!r} has no option {key!r}; {hint}.")


def choice_of(
    suite: str, options: Mapping[str, str], option: str, known: Sequence[str], default: str | None = None
) -> str:
    """Return an option's value from a fixed set; `default`, or the first of `known`, if it is not given.

    Raises:
        UserError: the value is not one of them.
    """
    if option in options:
        return check_choice(suite, option, options[option], known)
    return known[0] if default is None else default


def choices_of(suite: str, options: Mapping[str, str], option: str, known: Sequence[str]) -> set[str]:
    """Return the values of a comma-separated option from a fixed set; all of them if it is not given.

    Raises:
        UserError: a value is not one of them.
    """
    if option not in options:
        return set(known)
    return {check_choice(suite, option, name.strip(), known) for name in options[option].split(",")}


def check_choice(suite: str, option: str, value: str, known: Sequence[ChoiceT]) -> ChoiceT:
    """Return the value of an option that has a fixed set of values.

    Raises:
        UserError: the value is not one of them.
    """
    for choice in known:
        if choice == value:
            return choice
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
    raise UserError(
        f"option {option}={value!r} of {suite!r} must be one of {', '.join(known)}; nearest: {near!r}."
    )
