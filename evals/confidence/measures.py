"""Probabilities of choices before and after calibration, measured on choices that were not used in the fit.

Fold of a case: its number mod `N_FOLDS` after sorting by a hash of its id, so that neighbours, which often share
their tools, are in different folds. Each fold is judged with the temperature fitted on the other folds; the saved
temperature is fitted on all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit.errors import UserError
from agentkit.models.confidence import Calibration, Decision, log_loss
from evals.case import Run
from evals.harness.journal import read_journal
from evals.harness.results import read_rows
from evals.harness.suite import Table
from evals.statistics import Interval, brier, expected_calibration_error, mean_interval, wilson
from evals.tool_use.natural.scoring import FIRST_TOOL

N_FOLDS = 5
LEAST_DECISIONS = 50
"""Minimum number of decisions; with fewer, a temperature is mostly noise."""
THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision with its case, and its probability under a temperature fitted without it."""

    case_id: str
    decision: Decision
    calibrated: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The calibration, and its evaluation on held-out folds."""

    calibration: Calibration
    judged: tuple[Judged, ...]
    n_unknown: int
    """Number of excluded runs: failed, or without a probability."""

    def probabilities(self, *, calibrated: bool) -> list[float]:
        """Return the probability of each decision."""
        return [each.calibrated if calibrated else each.decision.probability for each in self.judged]

    @property
    def outcomes(self) -> list[bool]:
        """Whether each decision was correct."""
        return [each.decision.is_right for each in self.judged]


def read_decisions(folder: Path) -> tuple[list[tuple[str, Decision]], int]:
    """Return the first choice of each run of a finished evaluation, and the number of runs without one.

    Raises:
        UserError: the folder holds no finished evaluation, or one without first choices.
    """
    runs, decisions, n_unknown = read_journal(folder), list[tuple[str, Decision]](), 0
    rows = read_rows(folder)
    if not any(FIRST_TOOL in row for row in rows):
        raise UserError(
            f"{folder} does not say whether the first tool was right: calibrate on `agentkit eval natural`, or on "
            f"`agentkit eval examples` with a file of your own. On test sets nothing may be fitted."
        )
    for row in rows:
        run = runs.get((row["case_id"], row["epoch"]))
        found = _decision(run, row.get(FIRST_TOOL) == 1.0)
        if found is None:
            n_unknown += 1
        else:
            decisions.append((row["case_id"], found))
    return decisions, n_unknown


def fit(decisions: Sequence[tuple[str, Decision]], *, model: str | None, n_unknown: int = 0) -> Fit:
    """Fit a temperature and evaluate it across folds.

    Raises:
        UserError: there are too few decisions, or all of them are right or all wrong.
    """
    if len(decisions) < LEAST_DECISIONS:
        raise UserError(
            f"{len(decisions)} decisions with a probability ({n_unknown} runs have none) are too few: at least "
            f"{LEAST_DECISIONS}. Only models of this process under a grammar give probabilities."
        )
    spread = sorted(decisions, key=lambda each: hashlib.sha256(each[0].encode()).digest())
    judged: list[Judged] = []
    for fold in range(N_FOLDS):
        others = [decision for n, (_, decision) in enumerate(spread) if n % N_FOLDS != fold]
        of_others = Calibration.fit(others)
        held_out = spread[fold::N_FOLDS]
        judged += [Judged(case_id, each, of_others.probability(each)) for case_id, each in held_out]
    return Fit(Calibration.fit([each for _, each in decisions], model=model), tuple(judged), n_unknown)


def quality_table(fit: Fit) -> Table:
    """Return log-loss, Brier score and calibration error before and after calibration."""
    decisions = [each.decision for each in fit.judged]
    after = [Decision(each.calibrated, (), each.decision.is_right) for each in fit.judged]
    rows: list[tuple[str, ...]] = []
    for name, calibrated, seen in (("uncalibrated", False, decisions), ("calibrated", True, after)):
        p = fit.probabilities(calibrated=calibrated)
        squares = mean_interval([(a - b) ** 2 for a, b in zip(p, fit.outcomes, strict=True)])
        rows.append(
            (
                name,
                f"{math.fsum(p) / len(p):.3f}",
                f"{sum(fit.outcomes) / len(p):.3f}",
                f"{log_loss(seen, 1.0):.3f}",
                f"{brier(p, fit.outcomes):.3f} ({squares.low:.3f} to {squares.high:.3f})",
                f"{expected_calibration_error(p, fit.outcomes):.3f}",
            )
        )
    title = (
        f"first choice of {len(fit.judged)} cases, {N_FOLDS} folds; temperature {fit.calibration.temperature:.3f}"
    )
    columns = ("condition", "mean probability", "right", "log-loss, nats", "Brier score", "ECE, 15 bins")
    return Table(title, columns, tuple(rows))


def coverage_table(fit: Fit) -> Table:
    """Return the share of choices at or above each threshold, and the correct share of these."""
    rows = [
        (
            f"{threshold:.2f}",
            f"{covered:.3f}",
            str(right.n),
            f"{right.value:.3f}",
            f"{right.low:.3f} to {right.high:.3f}",
        )
        for threshold, (covered, right) in ((at, coverage(fit, at)) for at in THRESHOLDS)
        if right.n
    ]
    columns = ("threshold", "taken", "n", "right of those", "95 % interval")
    return Table("choices at or above a threshold", columns, tuple(rows))


def coverage(fit: Fit, threshold: float) -> tuple[float, Interval]:
    """Return the share of choices at or above a threshold, and the share of these that is correct."""
    taken = [each.decision.is_right for each in fit.judged if each.calibrated >= threshold]
    return len(taken) / len(fit.judged), wilson(sum(taken), len(taken))


def risk_curve(probabilities: Iterable[float], outcomes: Iterable[bool]) -> tuple[list[float], list[float]]:
    """Return the share taken, and the share wrong among those, for each threshold from the highest down."""
    ordered = sorted(zip(probabilities, outcomes, strict=True), key=lambda pair: -pair[0])
    taken, risk, n_wrong = list[float](), list[float](), 0
    for n, (p, is_right) in enumerate(ordered, start=1):
        n_wrong += not is_right
        if n == len(ordered) or ordered[n][0] != p:  # equal probabilities are taken together
            taken.append(n / len(ordered))
            risk.append(n_wrong / n)
    return taken, risk


def _decision(run: Run | None, is_right: bool) -> Decision | None:
    if run is None or run.status in ("failed", "timed_out") or not run.responses:
        return None
    return Decision.of(run.responses[0], is_right)
