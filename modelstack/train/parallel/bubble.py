"""Idle share of a pipeline's time, from torch's own schedule tables and the cost of each kind of pass.

The tables of `torch.distributed.pipelining` define each rank's actions and their order. They are simulated here:
an action starts when its rank is free and its input is available. Forward (F), backward to inputs (I) and to
weights (W) have costs; a whole backward pass costs I + W; communication costs nothing. All stages cost the same.
With s stages on a rank, each costs 1 / s of the rank's whole share, so schedules can be compared for one model.

Bubble: 1 - work / (ranks x time). For GPipe and 1F1B it is (R - 1) / (M + R - 1), for any costs.

Letters: R ranks, S stages, M micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelstack.errors import UserError
from modelstack.train.parallel.pipeline_schedules import (
    SCHEDULES,
    check_micro_batches,
    schedule_kind,
    stages_by_rank,
)


@dataclass(frozen=True, slots=True)
class Costs:
    """Times of a rank's whole share of the model for one micro-batch, in any unit."""

    forward: float = 1.0
    backward_input: float = 1.0
    backward_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Pass of one micro-batch through one stage."""

    kind: str
    """F, I, W, or B for I and W together."""
    stage: int
    micro_batch: int


def bubble_share(
    schedule: str,
    n_ranks: int,
    n_micro_batches: int,
    costs: Costs = Costs(),
    stages_per_rank: int | None = None,
) -> float:
    """Return the idle share of all ranks' time, in 0..1.

    Args:
        schedule: A name of `pipeline_schedules.SCHEDULES`.
        n_ranks: R.
        n_micro_batches: M.
        costs: Costs of the passes.
        stages_per_rank: Stages per rank; None: the schedule's number.

    Raises:
        UserError: The schedule does not support these numbers.
    """
    order = passes_by_rank(schedule, n_ranks, n_micro_batches, stages_per_rank)
    each = len(stages_by_rank(schedule, n_ranks, stages_per_rank)[0])
    cost = {"F": costs.forward, "I": costs.backward_input, "W": costs.backward_weight}
    cost["B"] = cost["I"] + cost["W"]
    cost = {kind: time / each for kind, time in cost.items()}
    ends = _play(order, cost, n_ranks * each)
    work = sum(cost[one.kind] for passes in order for one in passes)
    return 1 - work / (n_ranks * max(ends.values()))


def bubble_table(n_ranks: int, micro_batches: Sequence[int], costs: Costs = Costs()) -> str:
    """Return the bubbles of all schedules as text: one line per schedule, one column per number of micro-batches.

    Args:
        n_ranks: R.
        micro_batches: M of each column.
        costs: Costs of the passes.
    """
    rows = [["schedule", *(f"M={n}" for n in micro_batches)]]
    rows += [[schedule, *(_cell(schedule, n_ranks, n, costs) for n in micro_batches)] for schedule in SCHEDULES]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def passes_by_rank(
    schedule: str, n_ranks: int, n_micro_batches: int, stages_per_rank: int | None = None
) -> list[list[Pass]]:
    """Return the passes of each rank, in torch's order.

    Raises:
        UserError: The schedule does not support these numbers.
    """
    placed = stages_by_rank(schedule, n_ranks, stages_per_rank)
    check_micro_batches(schedule, n_ranks, sum(map(len, placed)), n_micro_batches)
    table = torch_schedule(schedule, placed, 0, n_micro_batches).pipeline_order
    order = [list(_passes(table[rank])) for rank in range(n_ranks)]
    if schedule == "1F1B":
        # In this table, torch 2.13 counts the last rank's forward passes from 1 (its execution is correct).
        order[-1] = [Pass("F", n_ranks - 1, one.micro_batch - 1) if one.kind == "F" else one for one in order[-1]]
    return order


def torch_schedule(schedule: str, placed: Sequence[Sequence[int]], rank: int, n_micro_batches: int) -> Any:
    """Return torch's schedule over stages that consist only of numbers, to read its table."""
    from torch.distributed.pipelining.schedules import get_schedule_class

    n_stages = sum(map(len, placed))
    stages = [_NumberedStage(stage, n_stages, rank, len(placed)) for stage in placed[rank]]
    is_single = schedule_kind(schedule).stages_per_rank == 1
    return get_schedule_class(schedule)(stages[0] if is_single else stages, n_micro_batches)  # pyright: ignore


@dataclass(slots=True)
class _NumberedStage:
    """The attributes of a stage that a schedule's constructor reads."""

    stage_index: int
    num_stages: int
    group_rank: int
    group_size: int
    submod: None = None
    stage_index_to_group_rank: dict[int, int] | None = None


def _passes(actions: Sequence[Any]) -> Iterator[Pass]:
    kinds = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}
    for action in actions:
        if action is not None and action.computation_type.name == "OVERLAP_F_B":
            yield from _passes(action.sub_actions)
        elif action is not None and action.computation_type.name in kinds:
            yield Pass(kinds[action.computation_type.name], action.stage_index, action.microbatch_index)


def _play(order: list[list[Pass]], cost: dict[str, float], n_stages: int) -> dict[Pass, float]:
    """Return the end time of each pass."""
    ends: dict[Pass, float] = {}
    free, at = [0.0] * len(order), [0] * len(order)
    n_left = sum(map(len, order))
    while n_left:
        n_before = n_left
        for rank, passes in enumerate(order):
            while at[rank] < len(passes):
                one = passes[at[rank]]
                ready = _ready(one, ends, n_stages)
                if ready is None:
                    break
                ends[one] = free[rank] = max(free[rank], ready) + cost[one.kind]
                at[rank] += 1
                n_left -= 1
        assert n_left < n_before, "torch's table waits for itself"
    return ends


def _ready(one: Pass, ends: dict[Pass, float], n_stages: int) -> float | None:
    """Return the time at which a pass's input is available; None: not known yet."""
    n = one.micro_batch
    if one.kind == "F":
        return 0.0 if one.stage == 0 else ends.get(Pass("F", one.stage - 1, n))
    if one.kind == "W":
        return ends.get(Pass("I", one.stage, n))
    if one.stage == n_stages - 1:
        return ends.get(Pass("F", one.stage, n))
    return ends.get(Pass("I", one.stage + 1, n), ends.get(Pass("B", one.stage + 1, n)))


def _cell(schedule: str, n_ranks: int, n_micro_batches: int, costs: Costs) -> str:
    try:
        return f"{bubble_share(schedule, n_ranks, n_micro_batches, costs):.1%}"
    except UserError:
        return "-"  # the schedule does not support this number
