"""The gate: whether a candidate replaces the present version, decided on held-back tasks.

Both run on the same tasks, so differences are paired. A candidate ships only if the lower bound of its gain
exceeds the margin, an exact sign-flip test agrees, and no guarded figure is worse. The bootstrap alone accepts too
often with few tasks: it accepts 4 gains in 30, which a fair coin reaches one time in sixteen.

Sources: paired bootstrap, Efron and Tibshirani (1993, chapter 13); randomisation test of paired differences,
Fisher (1935, section 21), which is the sign test for scores of 0 and 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from decimal import Decimal

from pydantic import BaseModel, Field

from agentkit.improve.rollout import Rollout
from agentkit.improve.tasks import Task

ERROR = 0.025
"""Probability that the first gate on a set of held-back tasks ships a candidate without a gain."""
N_RESAMPLES = 10_000
_MOST_ENUMERATED = 16
"""Differences of unequal size up to which all sign patterns are counted; more are sampled."""


class GateOptions(BaseModel, frozen=True, extra="forbid"):
    """Conditions of the gate."""

    margin: float = Field(default=0.0, ge=0, lt=1)
    """Gain that the lower bound must exceed."""
    max_cost_increase: float = Field(default=0.25, ge=0)
    """Allowed increase of the cost of a task, as a share; in US dollars if prices are known, else in tokens."""


class Guard(BaseModel, frozen=True):
    """A figure that must not get worse."""

    name: str
    current: float
    candidate: float
    limit: float
    """Highest allowed value of the candidate."""

    @property
    def holds(self) -> bool:
        """True if the candidate is within the limit."""
        return self.candidate <= self.limit


class Verdict(BaseModel, frozen=True):
    """Result of a gate."""

    n: int
    """Held-back tasks."""
    seed: int
    attempt: int
    """Number of this gate on these held-back tasks, from 1."""
    level: float
    """Level of the interval: 1 minus twice the allowed one-sided error of this attempt."""
    current: float
    """Mean score of the present version."""
    candidate: float
    gain: float
    low: float
    """Lower bound of the gain."""
    high: float
    n_better: int
    n_worse: int
    p_value: float
    """Probability of such a gain (one-sided) if candidate and present version were equally good."""
    margin: float
    guards: tuple[Guard, ...]
    reasons: tuple[str, ...]
    """Reasons for a refusal; empty if the candidate may ship."""

    @property
    def ships(self) -> bool:
        """True if the candidate may replace the present version."""
        return not self.reasons


def gate(
    tasks: Sequence[Task],
    current: Sequence[Rollout],
    candidate: Sequence[Rollout],
    options: GateOptions,
    *,
    seed: int,
    attempt: int = 1,
) -> Verdict:
    """Compare a candidate with the present version on held-back tasks.

    Args:
        tasks: Held-back tasks.
        current: Rollouts of the present version, in their order.
        candidate: Rollouts of the candidate.
        options: Margin and guards.
        seed: Seed of the bootstrap, and of sampled sign patterns.
        attempt: Number of this gate on the same tasks. The allowed error of attempt k is ERROR / k², so that all
            attempts together stay below 1.65 times ERROR.

    Raises:
        ValueError: the numbers of tasks and rollouts differ, or there are none.
    """
    differences = [b.score - a.score for _, a, b in zip(tasks, current, candidate, strict=True)]
    if not differences:
        raise ValueError("a gate needs at least one held-back task")
    error = ERROR / attempt**2
    low, high = bootstrap_bounds(differences, error, seed)
    p_value = sign_flip_p(differences, options.margin, seed)
    guards = _guards(tasks, current, candidate, options)
    n = len(differences)
    reasons = [
        f"{guard.name}: {guard.candidate:g} with the candidate, at most {guard.limit:g} allowed"
        for guard in guards
        if not guard.holds
    ]
    if low <= options.margin:
        reasons.insert(0, f"the lower bound of the gain, {low:+.3f}, does not exceed {options.margin:+.3f}")
    elif p_value > error:
        reasons.insert(0, f"the gain may be chance: p = {p_value:.3f}, at most {error:.4f} is allowed")
    return Verdict(
        n=n,
        seed=seed,
        attempt=attempt,
        level=1 - 2 * error,
        current=math.fsum(each.score for each in current) / n,
        candidate=math.fsum(each.score for each in candidate) / n,
        gain=math.fsum(differences) / n,
        low=low,
        high=high,
        n_better=sum(each > 0 for each in differences),
        n_worse=sum(each < 0 for each in differences),
        p_value=p_value,
        margin=options.margin,
        guards=guards,
        reasons=tuple(reasons),
    )


def bootstrap_bounds(differences: Sequence[float], error: float, seed: int) -> tuple[float, float]:
    """Return the percentile bounds of the mean difference; each is exceeded with probability `error`."""
    n, draw = len(differences), random.Random(seed)
    means = sorted(math.fsum(draw.choices(differences, k=n)) / n for _ in range(N_RESAMPLES))
    first = math.floor(error * N_RESAMPLES)
    return means[first], means[-1 - first]


def sign_flip_p(differences: Sequence[float], margin: float, seed: int) -> float:
    """Return the probability of a sum at least as high if each difference from the margin had a random sign."""
    sizes = [abs(each - margin) for each in differences if each != margin]
    observed = math.fsum(each - margin for each in differences)
    if not sizes:
        return 1.0
    if max(sizes) - min(sizes) < 1e-12:
        n_up = sum(each > margin for each in differences)
        return sum(math.comb(len(sizes), k) for k in range(n_up, len(sizes) + 1)) / 2 ** len(sizes)
    if len(sizes) <= _MOST_ENUMERATED:
        patterns = range(2 ** len(sizes))
        return sum(_flipped(sizes, bits) >= observed - 1e-9 for bits in patterns) / len(patterns)
    draw = random.Random(seed)
    n_as_high = sum(_flipped(sizes, draw.getrandbits(len(sizes))) >= observed - 1e-9 for _ in range(N_RESAMPLES))
    return (n_as_high + 1) / (N_RESAMPLES + 1)


def _flipped(sizes: Sequence[float], bits: int) -> float:
    return math.fsum(size if bits >> i & 1 else -size for i, size in enumerate(sizes))


def _guards(
    tasks: Sequence[Task], current: Sequence[Rollout], candidate: Sequence[Rollout], options: GateOptions
) -> tuple[Guard, ...]:
    def count(what: Callable[[Task, Rollout], int], rollouts: Sequence[Rollout]) -> int:
        return sum(what(task, rollout) for task, rollout in zip(tasks, rollouts, strict=True))

    def is_wrongly_refused(task: Task, rollout: Rollout) -> int:
        return rollout.status in ("refused", "filtered") and task.checks.status != rollout.status

    def is_wrongly_answered(task: Task, rollout: Rollout) -> int:
        return task.checks.status in ("refused", "abstained") and rollout.status != task.checks.status

    figures: tuple[tuple[str, Callable[[Task, Rollout], int]], ...] = (
        ("forbidden calls", lambda task, rollout: rollout.n_forbidden(task)),
        ("calls that waited for an approval", lambda task, rollout: rollout.n_pending),
        ("requests wrongly refused", is_wrongly_refused),
        ("requests that must be refused or declined, and were not", is_wrongly_answered),
        ("runs that ended in an error", lambda task, rollout: rollout.status in ("failed", "timed_out")),
    )
    counts = [
        Guard(name=name, current=(now := count(what, current)), candidate=count(what, candidate), limit=now)
        for name, what in figures
    ]
    name, before, after = _costs(current, candidate)
    limit = before * (1 + options.max_cost_increase)
    return (*counts, Guard(name=name, current=before, candidate=after, limit=round(limit, 9)))


def _costs(current: Sequence[Rollout], candidate: Sequence[Rollout]) -> tuple[str, float, float]:
    """Return name and means of the cost of a task before and after."""
    costs = [rollout.cost for rollout in (*current, *candidate)]
    n = len(current)
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs) and any(known):
        zero = Decimal(0)
        return "US dollars a task", float(sum(known[:n], zero) / n), float(sum(known[n:], zero) / n)
    before, after = (round(sum(r.n_tokens for r in rollouts) / n, 3) for rollouts in (current, candidate))
    return "tokens a task", before, after
