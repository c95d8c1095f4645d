"""Requirements of torch's pipeline schedules: the stages of each rank and the number of micro-batches.

torch checks most of them when a schedule is created, on each rank separately and after the model was split. Here
they are data that can be checked before anything is created; a test compares them with torch's own constructors.

GPipe: arXiv 1811.06965. 1F1B: PipeDream-Flush, 2006.09503. Interleaved 1F1B: 2104.04473. Looped BFS: 2211.05953.
Zero bubble, interleaved and V: 2401.10241. DualPipeV: DeepSeek's form of 2412.19437's DualPipe.

Letters: W ranks of a pipeline, S stages, M micro-batches of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelstack.errors import UserError

STAGES_PER_RANK = 2
"""Default where a schedule allows any number: more stages mean less bubble and more communication."""


@dataclass(frozen=True, slots=True)
class ScheduleKind:
    """Requirements of one schedule."""

    placement: Literal["loop", "v"]
    """Loop: rank r has stages r, r + W, ...; V: r and 2 W - 1 - r, so rank 0 has both ends of the model."""
    stages_per_rank: int | None = None
    """Required number of stages per rank; None: any."""
    needs_a_micro_batch_per_stage: bool = False
    works_in_rounds: bool = False
    """Whether M must be a multiple of the number of rounds, max(1, M // W)."""


SCHEDULES = {
    "GPipe": ScheduleKind("loop", 1),
    "1F1B": ScheduleKind("loop", 1, needs_a_micro_batch_per_stage=True),
    "Interleaved1F1B": ScheduleKind("loop", works_in_rounds=True),
    "LoopedBFS": ScheduleKind("loop"),
    "InterleavedZeroBubble": ScheduleKind("loop", works_in_rounds=True),
    "ZBVZeroBubble": ScheduleKind("v", 2),
    "DualPipeV": ScheduleKind("v", 2, needs_a_micro_batch_per_stage=True),
}
"""Schedules by their names in `torch.distributed.pipelining.schedules.get_schedule_class`."""


def stages_by_rank(schedule: str, n_ranks: int, stages_per_rank: int | None = None) -> list[tuple[int, ...]]:
    """Return the stages of each rank.

    Args:
        schedule: A name of `SCHEDULES`.
        n_ranks: W.
        stages_per_rank: Stages per rank; None: the schedule's number, or `STAGES_PER_RANK`.

    Raises:
        UserError: The schedule is unknown or requires another number of stages, or there is only one rank.
    """
    kind = schedule_kind(schedule)
    if n_ranks < 2:
        raise UserError(f"a pipeline of {n_ranks} rank has nothing to overlap; set pp to 2 or more, or omit it")
    each = stages_per_rank or kind.stages_per_rank or STAGES_PER_RANK
    if kind.stages_per_rank not in (None, each):
        raise UserError(
            f"{schedule} has {kind.stages_per_rank} stages on each rank, not {each}; omit stages_per_rank"
        )
    if kind.placement == "v":
        return [(rank, 2 * n_ranks - 1 - rank) for rank in range(n_ranks)]
    return [tuple(range(rank, each * n_ranks, n_ranks)) for rank in range(n_ranks)]


def check_micro_batches(schedule: str, n_ranks: int, n_stages: int, n_micro_batches: int) -> None:
    """Check that a schedule supports a number of micro-batches.

    Raises:
        UserError: The schedule does not support it; the message contains the rule.
    """
    kind = schedule_kind(schedule)
    if kind.needs_a_micro_batch_per_stage and n_micro_batches < n_stages:
        raise UserError(
            f"{schedule} needs a micro-batch for each of its {n_stages} stages, but a step has {n_micro_batches}; "
            f"set micro_batches to {n_stages} or more"
        )
    n_rounds = max(1, n_micro_batches // n_ranks)
    if kind.works_in_rounds and n_micro_batches % n_rounds:
        raise UserError(
            f"{schedule} works in rounds of at least {n_ranks} micro-batches (one per rank), but a step's "
            f"{n_micro_batches} do not divide into {n_rounds}; set micro_batches to a multiple of {n_ranks}"
        )


def schedule_kind(schedule: str) -> ScheduleKind:
    """Return the requirements of a schedule.

    Raises:
        UserError: The schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"pipeline schedule {schedule!r} is not known; known: {', '.join(SCHEDULES)}")
    return SCHEDULES[schedule]
