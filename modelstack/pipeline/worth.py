"""Worth of each step, in one table: a figure without the step and with it, and the interval of the difference.

Small trainings beside the run compare data and tokenizers, with an interval over seeds. A step that changes the
model is compared with the model before it, on the evaluation that spans the run and on the held-back cases of its
own stage. The guard is compared with the model alone.

Intervals are of 95 %. Those of differences between shares are by the square-and-add method (Zou and Donner 2008),
which takes the two for independent. Their cases are the same, so the intervals are too wide, not too narrow.
Bits per byte are compared document by document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from modelstack.pipeline.measuring import (
    BITS,
    IS_BETTER_LOWER,
    OVER_REFUSED,
    REFUSED,
    RIGHT_WITH_GRAMMAR,
    Evaluated,
    read_evaluation,
)
from modelstack.pipeline.steps import BY_NAME, STEPS
from modelstack.pipeline.work.comparisons import FILE, FOLDER
from modelstack.posttrain.stages.record import Measurement

ALIGN_FILE = "results/figures.json"
THROUGH, TURNED_AWAY = "harmful requests answered", "harmless requests turned away"
ALONE, GUARDED = "model alone", "behind the guard"
SHOWN: Mapping[str, tuple[str, ...]] = {
    "sft": (RIGHT_WITH_GRAMMAR, REFUSED, OVER_REFUSED),
    "preferences": (RIGHT_WITH_GRAMMAR, REFUSED, OVER_REFUSED),
    "reasoning": (RIGHT_WITH_GRAMMAR,),
    "inference": (BITS, RIGHT_WITH_GRAMMAR),
}
"""Figures of the spanning evaluation by step; all of them are in the table of all steps."""


@dataclass(frozen=True, slots=True)
class Worth:
    """A figure without a step and with it."""

    step: str
    compared: str
    """Names of the two that are compared."""
    figure: str
    before: float
    after: float
    difference: tuple[float, float, float] | None
    """Difference with its bounds; None: it has no interval."""
    cases: str
    """Number of cases or seeds."""
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """better, worse, or "" if the interval of the difference includes 0."""
        if self.difference is None or self.difference[1] <= 0 <= self.difference[2]:
            return ""
        return "better" if (self.difference[0] < 0) == self.lower_is_better else "worse"


def worth_of_steps(folder: Path) -> list[Worth]:
    """Return the rows of the table, as far as the run has come."""
    return [*_trainings(folder), *_models(folder), *_guard(folder)]


def share_difference(before: Measurement, after: Measurement) -> tuple[float, float, float] | None:
    """Return the difference of two shares with its bounds; None: one of them has no interval."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    middle = after.value - before.value
    low = middle - math.hypot(after.value - after.low, before.high - before.value)
    high = middle + math.hypot(after.high - after.value, before.value - before.low)
    return middle, low, high


def _trainings(folder: Path) -> Iterator[Worth]:
    from modelstack.student import half_width_95

    found = _read(folder / BY_NAME["tokenizer"].folder / FOLDER / FILE)
    for step, pair in zip(("data", "tokenizer"), found, strict=False):  # none, if the recipe asks for none
        before, after = pair["before"], pair["after"]
        each = [b - a for a, b in zip(before, after, strict=True)]
        middle, n = fmean(each), len(each)
        half = half_width_95(each) if n > 1 else math.nan
        difference = (middle, middle - half, middle + half) if n > 1 else None
        figure = f"{BITS}, {pair['steps']} steps"
        seeds = f"{n} seeds" if n > 1 else "1 seed"
        yield Worth(step, pair["names"], figure, fmean(before), fmean(after), difference, seeds, True)


def _models(folder: Path) -> Iterator[Worth]:
    before: Evaluated | None = None
    for step in STEPS:
        after = read_evaluation(folder, step.name) if step.makes_model else None
        if after is None:
            continue
        names = SHOWN.get(step.name, ())
        if before is not None and names:
            compared = f"{before.step}, {step.name}"
            yield from _own_cases(folder / step.folder, step.name, compared)
            yield from (row for name in names if (row := _spanning(before, after, name, compared)) is not None)
        before = after


def _spanning(before: Evaluated, after: Evaluated, name: str, compared: str) -> Worth | None:
    first, second = before.figure(name), after.figure(name)
    if first is None or second is None:
        return None
    if name == BITS:
        difference, cases = _bits_difference(before, after), f"{second.n} documents"
    else:
        difference, cases = share_difference(first, second), f"{second.n} cases"
    return Worth(after.step, compared, name, first.value, second.value, difference, cases, name in IS_BETTER_LOWER)


def _bits_difference(before: Evaluated, after: Evaluated) -> tuple[float, float, float] | None:
    """Return the difference in bits per byte, by a bootstrap over documents, which are the same in both."""
    from modelstack.tokenizer.measures import ratio_interval

    n_bytes = np.array(after.n_bytes)
    if not len(n_bytes) or before.n_bytes != after.n_bytes:
        return None
    found = ratio_interval(np.array(after.bits) - np.array(before.bits), n_bytes)
    return None if found is None else (found.value, found.low, found.high)


def _own_cases(folder: Path, step: str, compared: str) -> Iterator[Worth]:
    """Yield the first figure that a stage measured before and after its training, if it has an interval."""
    from modelstack.posttrain.stages.stage import is_stage, read_record

    if step == "sft" or not is_stage(folder):
        return
    measured = read_record(folder).evaluation
    before = {each.name: each for each in measured.before}
    for after in measured.after[:1]:
        if after.name in before:
            first = before[after.name]
            difference = share_difference(first, after)
            yield Worth(
                step, compared, after.name, first.value, after.value, difference, f"{after.n} held back", False
            )


def _guard(folder: Path) -> Iterator[Worth]:
    found = {
        each["name"]: Measurement.model_validate(each)
        for each in _read(folder / BY_NAME["align"].folder / ALIGN_FILE)
    }
    for name in (THROUGH, TURNED_AWAY):
        before, after = (found.get(f"{name}, {state}") for state in (ALONE, GUARDED))
        if before is not None and after is not None:
            difference = share_difference(before, after)
            names = f"{ALONE}, {GUARDED}"
            yield Worth("align", names, name, before.value, after.value, difference, f"{after.n} requests", True)


def _read(file: Path) -> Sequence[dict[str, Any]]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
