"""Tables from probabilities on text sets: shares with Wilson intervals, pairs, calibration, curves.

Every table gives n, and every share its 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.harness.suite import Table
from evals.refusals.curves import ScoredRequest, at_attack_success, at_false_refusal, sweep
from evals.statistics import (
    Interval,
    area_under_roc,
    brier,
    expected_calibration_error,
    wilson,
)
from tools.classifiers.contrast_pairs import Pair
from tools.classifiers.evaluation.text_sets import TextSet

FALSE_REFUSALS = (0.005, 0.01, 0.05)
ATTACK_SUCCESSES = (0.05, 0.10)


@dataclass(frozen=True, slots=True)
class Judged:
    """Probabilities of one classifier on all sets."""

    name: str
    probabilities: Mapping[str, Sequence[float]]
    """Calibrated probability of each text, by name of the set."""
    thresholds: Mapping[str, float]
    """Least flagged probability by operating point; none was set on a text of these sets."""
    uncalibrated: Mapping[str, Sequence[float]] | None = None
    """Probabilities before calibration; None if the classifier has no calibration."""

    def flagged(self, name: str, point: str) -> Interval:
        """Return the share of a set that is flagged at an operating point."""
        values = self.probabilities[name]
        return wilson(sum(value >= self.thresholds[point] for value in values), len(values))


def flag_table(title: str, sets: Sequence[TextSet], ours: Judged, baseline: Judged) -> Table:
    """Return the shares flagged by both classifiers, set by set, harmful sets first."""
    rows: list[tuple[str, ...]] = []
    for flagged in (True, False):
        for s in (s for s in sets if s.flagged == flagged):
            shares = [str(j.flagged(s.name, point)) for point in ("fpr_1", "fpr_5") for j in (ours, baseline)]
            rows.append((s.name, s.kind, s.want, str(len(s.texts)), *shares))
    columns = ("set", "kind", "want", "n", "1 %: ours", "1 %: baseline", "5 %: ours", "5 %: baseline")
    return Table(title, columns, tuple(rows))


def curve_table(title: str, sets: Sequence[TextSet], judges: Sequence[Judged]) -> Table:
    """Return attack success and false refusal over all thresholds, development and held-out sets each in one pool.

    The thresholds come from the same texts, so the table describes a curve and no operating point.
    """
    rows: list[tuple[str, ...]] = []
    for kind in ("development", "held out"):
        for judged in judges:
            harmful, benign = pooled(sets, judged, kind)
            if not harmful or not benign:
                continue
            points = sweep([ScoredRequest(p) for p in harmful], [ScoredRequest(p) for p in benign])
            cells = [f"{area_under_roc(harmful, benign):.3f}"]
            for rate in FALSE_REFUSALS:
                point = at_false_refusal(points, rate)
                cells.append(str(point.attack_success) if point else "none")
            for rate in ATTACK_SUCCESSES:
                point = at_attack_success(points, rate)
                cells.append(str(point.false_refusal) if point else "none")
            rows.append((kind, judged.name, f"{len(harmful)} + {len(benign)}", *cells))
    columns = (
        "sets", "classifier", "n", "AUC", *(f"ASR at FRR {rate:.1%}" for rate in FALSE_REFUSALS),
        *(f"FRR at ASR {rate:.0%}" for rate in ATTACK_SUCCESSES),
    )  # fmt: skip
    return Table(title, columns, tuple(rows))


def pooled(sets: Sequence[TextSet], judged: Judged, kind: str) -> tuple[list[float], list[float]]:
    """Return the probabilities of harmful and of benign texts of a kind; ordinary requests join both kinds."""
    harmful: list[float] = []
    benign: list[float] = []
    for s in sets:
        if s.counts and s.kind in (kind, "ordinary"):
            (harmful if s.flagged else benign).extend(judged.probabilities[s.name])
    return harmful, benign


def pair_table(
    title: str, pairs: Sequence[Pair], probability: Mapping[str, Mapping[str, float]], judges: Sequence[Judged]
) -> Table:
    """Return the share of pairs whose harmful twin scores higher, and of those whose twins are both judged right.

    Args:
        title: Title of the table.
        pairs: Held-out pairs.
        probability: Probability by name of the classifier and text.
        judges: The classifiers, for their names and thresholds.
    """
    families = sorted({pair.family for pair in pairs})
    rows: list[tuple[str, ...]] = []
    for family in (*families, "all"):
        chosen = [pair for pair in pairs if family in (pair.family, "all")]
        cells: list[str] = []
        for judged in judges:
            of = probability[judged.name]
            higher = sum(of[p.unsafe.strip()] > of[p.safe.strip()] for p in chosen)
            least = judged.thresholds["fpr_5"]
            right = sum(of[p.unsafe.strip()] >= least > of[p.safe.strip()] for p in chosen)
            cells += [str(wilson(higher, len(chosen))), str(wilson(right, len(chosen)))]
        rows.append((family, str(len(chosen)), *cells))
    columns = ["family", "pairs"]
    for judged in judges:
        columns += [f"{judged.name}: twin ranked right", f"{judged.name}: both right at 5 %"]
    return Table(title, tuple(columns), tuple(rows))


def calibration_table(title: str, sets: Sequence[TextSet], judges: Sequence[Judged]) -> Table:
    """Return ECE (15 equal-mass bins) and Brier before and after calibration, per source and per pool.

    A source has one kind of text, so its ECE is the distance of its probabilities from 0 or 1.
    """
    rows: list[tuple[str, ...]] = []
    pools = {
        kind: [s for s in sets if s.counts and s.kind in (kind, "ordinary")]
        for kind in ("development", "held out")
    }
    parts = [(f"all: {kind}", members) for kind, members in pools.items() if any(s.flagged for s in members)]
    parts += [(s.name, [s]) for s in sets if s.counts]
    for name, members in parts:
        outcomes = [s.flagged for s in members for _ in s.texts]
        cells: list[str] = []
        for judged in judges:
            for values in (judged.uncalibrated, judged.probabilities):
                if values is not None:
                    scores = [p for s in members for p in values[s.name]]
                    cells.append(
                        f"{expected_calibration_error(scores, outcomes):.3f} / {brier(scores, outcomes):.3f}"
                    )
        rows.append((name, str(len(outcomes)), f"{sum(outcomes) / len(outcomes):.2f}", *cells))
    columns = ["source", "n", "share true"]
    for judged in judges:
        columns += [f"{judged.name} before"] * (judged.uncalibrated is not None) + [judged.name]
    return Table(title, tuple(columns), tuple(rows))


def latency_table(title: str, timings: Mapping[str, Sequence[tuple[float, float]]]) -> Table:
    """Return p50 and p99 in milliseconds of wall clock and of this thread's CPU time."""
    rows: list[tuple[str, ...]] = []
    for name, times in timings.items():
        wall, cpu = sorted(w for w, _ in times), sorted(c for _, c in times)
        cells = (quantile(wall, 0.5), quantile(wall, 0.99), quantile(cpu, 0.5), quantile(cpu, 0.99))
        rows.append((name, str(len(times)), *(f"{1000 * cell:.3f}" for cell in cells)))
    return Table(title, ("what", "n", "wall p50 ms", "wall p99 ms", "CPU p50 ms", "CPU p99 ms"), tuple(rows))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the least value that at least `share` of the ordered values do not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("a quantile of no values is not defined")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
