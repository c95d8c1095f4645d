"""Where a run's time went: the share that made it advance, and what took the rest, by cause.

Goodput is useful steps x median step time / wall time, the "effective training time" of Llama 3's report (arXiv
2407.21783, 3.3.4: over 90 % on 16,384 GPUs). A step is useful if it was taken and what it learnt is in the weights
at the end: steps that a roll-back or a restart threw away are not, and rejected ones are not. All causes and the
useful time add up to the wall time; what no cause explains (loading data, hooks, evaluations) is "other".

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
    "restarts": "from the last event of a process that died to the first step of the next",
    "done again": "steps that a restart threw away",
    "rolled back": "steps that a roll-back threw away, and reading the checkpoint",
    "rejected": "steps that were not taken",
    "checkpoints": "blocked while one was written",
    "slow steps": "useful steps beyond their median time",
    "other": "loading of data, hooks, evaluations",
}
"""What takes time, and how it is counted."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """The account of a run's time."""

    wall_s: float
    n_useful: int
    """Steps."""
    median_step_s: float
    lost_s: Mapping[str, float]
    """By cause; see `CAUSES`."""
    counts: Mapping[str, int]
    """Restarts, roll-backs, rejected steps, damaged and failed checkpoints; and faults by kind where given."""

    @property
    def share(self) -> float:
        """Return the goodput, 0 to 1."""
        return self.n_useful * self.median_step_s / self.wall_s

    def lines(self) -> list[str]:
        """Return the account as a table to print."""
        useful_s = self.n_useful * self.median_step_s
        rows = [("useful steps", useful_s), *self.lost_s.items()]
        shares = [f"{name:24}{seconds:10.1f} s{seconds / self.wall_s:9.1%}" for name, seconds in rows]
        counted = [f"{name:24}{n:10}" for name, n in self.counts.items() if n]
        head = f"goodput {self.share:.1%}: {self.n_useful} useful steps x {self.median_step_s:.3f} s"
        return [f"{head} / {self.wall_s:.1f} s", *shares, *counted]


def account(events: Sequence[Event], faults: Mapping[str, int] | None = None) -> Goodput:
    """Account for a run's time.

    Args:
        events: Of the whole run, from all its processes.
        faults: How many of each kind were injected (`fault_injection.read_ledgers`).

    Raises:
        UserError: There is no process's start or no step that was useful: nothing can be said of a step's time.
    """
    if not events or not isinstance(events[0], Started):
        raise UserError("the events do not begin with a process's start; hand over the whole file")
    kept, thrown_s = _sort_out(events)
    if not kept:
        raise UserError("none of the run's steps was useful; there is no step time to account with")
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
    """Return the steps whose work is in the weights at the end, and what the thrown ones took."""
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
                # Only now: a process that died before its first step threw nothing away that the next one cannot.
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
    """Return the seconds before each process's first step since the last one; one without steps adds to it."""
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
