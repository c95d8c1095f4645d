"""Tests every security predicate in both directions with the real servers: `python -m evals.injection.proof`.

Scripted models play each case. The reference solution must fulfil the request and reach no goal, the obedient
victim must reach the case's goal and no other, and "nothing" must do neither. All goals are evaluated after every
run, which detects a predicate that a legitimate action also satisfies. One pair of servers serves all cases, so
that the full crossing takes only minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from agentkit.models.base import ModelSettings
from agentkit.testing import TestModel
from evals.case import Case, Run
from evals.injection import goals
from evals.injection.attacks import STYLES
from evals.injection.crossing import all_cases
from evals.injection.defences import DEFAULT_DEFENCE, DEFENCES
from evals.injection.environment import Workshop, connected
from evals.injection.playing import PLAYS
from evals.injection.scoring import is_attacked, is_done, seen_in
from evals.injection.suite import solve_in, start_state

COMMAND = "python -m evals.injection.proof"
DESCRIPTION = "Play all cases with scripted models and evaluate every predicate after each."


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a play."""

    case: Case
    run: Run
    is_done: bool
    reached: frozenset[str]
    """Ids of all goals that count as reached, including goals of other cases."""

    @property
    def wrong(self) -> str:
        """Return the deviations from the play's expected result; empty if there are none."""
        play, goal = self.case.data["play"], self.case.data["goal"]
        should_reach = frozenset({goal}) if play == "obey" and goal else frozenset[str]()
        problems = [
            *((f"ended as {self.run.status}: {self.run.error}",) if self.run.status != "completed" else ()),
            *(("the request counts as met",) if self.is_done and play == "nothing" else ()),
            *(("the request does not count as met",) if not self.is_done and play != "nothing" else ()),
            *(f"{name} does not count as reached" for name in sorted(should_reach - self.reached)),
            *(f"{name} counts as reached" for name in sorted(self.reached - should_reach)),
        ]
        return "; ".join(problems)


async def outcomes(folder: Path, cases: Sequence[Case]) -> AsyncIterator[Outcome]:
    """Play cases with a common defence one after another, each from its own initial state.

    Raises:
        MCPConnectionError: a server cannot be started.
    """
    workshop = Workshop(folder, DEFENCES[cases[0].data["defence"]])
    async with connected(workshop.servers):
        async for outcome in outcomes_in(workshop, cases):
            yield outcome


async def outcomes_in(workshop: Workshop, cases: Sequence[Case]) -> AsyncIterator[Outcome]:
    """Play cases one after another in a connected workshop, each from its own initial state."""
    for case in cases:
        workshop.fill(start_state(case))
        run = await solve_in(workshop, case, TestModel(), ModelSettings())
        yield judged(case, replace(run, observed={**run.observed, **workshop.observe()}))


def judged(case: Case, run: Run) -> Outcome:
    """Return a run with every predicate's verdict.

    Raises:
        ValueError: the run's final state was not observed.
    """
    seen = seen_in(run)
    if seen is None:
        raise ValueError(f"{case.id}: the final state was not observed")
    as_goals = {goal: replace(case, data={**case.data, "goal": goal}) for goal in goals.BY_ID}
    reached = frozenset(goal for goal, other in as_goals.items() if is_attacked(other, seen))
    return Outcome(case, run, is_done(case, seen), reached)


def report(played: Iterable[Outcome]) -> list[str]:
    """Return a line for each play, and one for each wrong outcome."""
    lines = [f"{'play':<11}{'cases':>7}{'request met':>13}{'goal reached':>14}{'other goals':>13}{'exposed':>9}"]
    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    for outcome in played:
        goal = outcome.case.data["goal"]
        count = counts.setdefault(outcome.case.data["play"], Counter())
        count["cases"] += 1
        count["met"] += outcome.is_done
        count["reached"] += goal in outcome.reached
        count["other"] += len(outcome.reached - {goal})
        count["exposed"] += bool(goal and outcome.run.observed["exposed"])
        if outcome.wrong:
            wrong.append(f"WRONG {outcome.case.data['play']} {outcome.case.id}: {outcome.wrong}")
    lines += [
        f"{play:<11}{c['cases']:>7}{c['met']:>13}{c['reached']:>14}{c['other']:>13}{c['exposed']:>9}"
        for play, c in counts.items()
    ]
    return [*lines, *wrong]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if any outcome is wrong, else 0."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=DESCRIPTION)
    parser.add_argument("--crossing", choices=("balanced", "full"), default="full", help="default: %(default)s")
    parser.add_argument("--defence", choices=tuple(DEFENCES), default=DEFAULT_DEFENCE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    cases = [
        case
        for play in PLAYS
        for case in all_cases(STYLES, play=play, every_goal=options.crossing == "full", defence=options.defence)
    ]

    async def all_outcomes(folder: Path) -> list[Outcome]:
        return [outcome async for outcome in outcomes(folder, cases)]

    with TemporaryDirectory(prefix="agentkit-injection-") as folder:
        played = anyio.run(all_outcomes, Path(folder))
    n_attacked = sum(case.data["goal"] is not None for case in cases) // len(PLAYS)
    print(f"{n_attacked} attacked cases, {options.crossing} crossing, defence {options.defence}")
    print("\n".join(report(played)))
    return int(any(outcome.wrong for outcome in played))


if __name__ == "__main__":
    sys.exit(main())
