"""Goodput: the share of a run's time that advanced it, and the lost time by cause.

Goodput is useful steps x median step time / wall time, the "effective training time" of Llama 3's report (arXiv
2407.21783, 3.3.4: over 90 % on 16,384 GPUs). A step is useful if it was taken and is part of the final weights.
Steps lost by a roll-back or a restart and rejected steps are not useful. All causes and the useful time add up to
the wall time; time without a known cause (loading data, hooks, evaluations) is "other".

`modelstack goodput RUN_FOLDER` prints it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelstack.errors import UserError
from modelstack.stability.run_events import Event, Restored, Saved, Started, Stepped

CAUSES = {
    "start": "from the first process's start to its first step",
    "restarts": "from the last event of a dead process to the first step of the next one",
    "done again": "steps lost by a restart",
    "rolled back": "steps lost by a roll-back, and reading the checkpoint",
    "rejected": "steps that were not taken",
    "checkpoints": "training blocked while a checkpoint was written",
    "slow steps": "useful steps beyond their median time",
    "other": "loading of data, hooks, evaluations",
}
"""Causes of lost time, and how each is measured."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """Account of a run's time."""

    wall_s: float
    n_useful: int
    """Number of useful steps."""
    median_step_s: float
    lost_s: Mapping[str, float]
    """Lost seconds by cause; see `CAUSES`."""
    counts: Mapping[str, int]
    """Numbers of restarts, roll-backs, rejected steps, damaged and failed checkpoints, and of faults by kind if
    given.
    """

    @property
    def share(self) -> float:
        """Goodput, 0 to 1."""
        return self.n_useful * self.median_step_s / self.wall_s

    @property
    def head(self) -> str:
        """The share and how it is calculated."""
        head = f"goodput {self.share:.1%}: {self.n_useful} useful steps x {self.median_step_s:.3f} s"
        return f"{head} / {self.wall_s:.1f} s"

    def seconds_by_cause(self) -> list[tuple[str, float, float]]:
        """Return cause, seconds and share of the run's time; the first cause is useful steps."""
        rows = [("useful steps", self.n_useful * self.median_step_s), *self.lost_s.items()]
        return [(name, seconds, seconds / self.wall_s) for name, seconds in rows]

    def lines(self) -> list[str]:
        """Return the account as lines of text."""
        shares = [f"{name:24}{seconds:10.1f} s{share:9.1%}" for name, seconds, share in self.seconds_by_cause()]
        counted = [f"{name:24}{n:10}" for name, n in self.counts.items() if n]
        return [self.head, *shares, *counted]


def account(events: Sequence[Event], faults: Mapping[str, int] | None = None) -> Goodput:
    """Account for a run's time.

    Args:
        events: Events of the whole run, from all its processes.
        faults: Number of injected faults by kind (`fault_injection.read_ledgers`).

    Raises:
        UserError: There is no start of a process or no useful step, so no step time is known.
    """
    if not events or not isinstance(events[0], Started):
        raise UserError("the events do not begin with the start of a process; pass the whole file")
    kept, thrown_s = _sort_out(events)
    if not kept:
        raise UserError("none of the run's steps was useful, so no step time is known")
    seconds = [step.seconds for step in kept]
    median = statistics.median(seconds)
    wall = events[-1].time - events[0].time
    start, *restarts = _gaps(events)
    rejected = [event for event in events if isinstance(event, Stepped) and event.is_rejected]
    saves = [event for event in events if isinstance(event, Saved)]
    loads = _roll_backs(events)
    lost = {
        "start": start,
        "restarts": sum(restarts),
        "done again": thrown_s["done again"],
        "rolled back": thrown_s["rolled back"] + sum(load.seconds for load in loads),
        "rejected": sum(step.seconds for step in rejected),
        "checkpoints": sum(save.seconds for save in saves),
        "slow steps": sum(seconds) - len(seconds) * median,
    }
    lost["other"] = wall - len(kept) * median - sum(lost.values())
    counts = {
        "restarts": len(restarts),
        "roll-backs": len(loads),
        "rejected steps": len(rejected),
        "steps done again": int(thrown_s["n done again"]),
        "steps rolled back": int(thrown_s["n rolled back"]),
        "checkpoints not written": sum(1 for save in saves if save.error),
        "damaged checkpoints met": sum(event.n_damaged for event in events if isinstance(event, Restored)),
    }
    counts |= {f"fault: {kind}": n for kind, n in (faults or {}).items()}
    return Goodput(wall, len(kept), median, lost, counts)


def _sort_out(events: Sequence[Event]) -> tuple[list[Stepped], dict[str, float]]:
    """Return the steps that are part of the final weights, and the seconds and numbers of lost ones."""
    kept: list[Stepped] = []
    thrown = {"done again": 0.0, "n done again": 0.0, "rolled back": 0.0, "n rolled back": 0.0}
    has_stepped, restored = False, 0
    for event in events:
        if isinstance(event, Started):
            has_stepped, restored = False, 0
        elif isinstance(event, Restored):
            if has_stepped:
                kept = _throw(kept, event.step, "rolled back", thrown)
            restored = event.step
        elif isinstance(event, Stepped):
            if not has_stepped:
                # Only at the first step: a process that died before its first step lost no work.
                kept = _throw(kept, restored, "done again", thrown)
            has_stepped = True
            if not event.is_rejected:
                kept.append(event)
    return kept, thrown


def _throw(kept: list[Stepped], step: int, cause: str, thrown: dict[str, float]) -> list[Stepped]:
    lost = [one for one in kept if one.step >= step]
    thrown[cause] += sum(one.seconds for one in lost)
    thrown[f"n {cause}"] += len(lost)
    return [one for one in kept if one.step < step]


def _roll_backs(events: Sequence[Event]) -> list[Restored]:
    found: list[Restored] = []
    has_stepped = False
    for event in events:
        if isinstance(event, Restored) and has_stepped:
            found.append(event)
        has_stepped = isinstance(event, Stepped) or (has_stepped and not isinstance(event, Started))
    return found


def _gaps(events: Sequence[Event]) -> list[float]:
    """Return the seconds before the first step of each process, counted from the last step of the run before.

    The time of a process without any step is added to the gap of the next process.
    """
    gaps: list[float] = []
    since = events[0].time
    has_stepped = False
    for event in events:
        if isinstance(event, Started):
            has_stepped = False
        elif isinstance(event, Stepped) and not has_stepped:
            gaps.append(event.time - event.seconds - since)
            has_stepped = True
        if has_stepped:
            since = event.time
    return gaps if has_stepped else [*gaps, events[-1].time - since]
