"""Idle time of pipelines: what torch's tables come to, against the closed forms."""

from __future__ import annotations

import pytest

from modelstack.errors import UserError
from modelstack.train.parallel.bubble import Costs, Pass, bubble_share, bubble_table, passes_by_rank
from modelstack.train.parallel.pipeline_schedules import SCHEDULES


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B"])
@pytest.mark.parametrize(("n_ranks", "n_micro_batches"), [(2, 2), (2, 7), (4, 8), (8, 32)])
@pytest.mark.parametrize("costs", [Costs(), Costs(1.0, 1.3, 0.7)])
def test_one_stage_a_rank_is_idle_as_the_closed_form_says(
    schedule: str, n_ranks: int, n_micro_batches: int, costs: Costs
) -> None:
    expected = (n_ranks - 1) / (n_micro_batches + n_ranks - 1)
    assert bubble_share(schedule, n_ranks, n_micro_batches, costs) == pytest.approx(expected)


@pytest.mark.parametrize("stages_per_rank", [2, 3, 4])
def test_interleaving_divides_the_idle_time_by_the_stages_of_a_rank(stages_per_rank: int) -> None:
    share = bubble_share("Interleaved1F1B", 4, 8, stages_per_rank=stages_per_rank)
    assert share / (1 - share) == pytest.approx((4 - 1) / (stages_per_rank * 8))


@pytest.mark.parametrize("schedule", ["InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"])
@pytest.mark.parametrize("n_micro_batches", [8, 16])
def test_a_split_backward_pass_fills_most_of_the_bubble(schedule: str, n_micro_batches: int) -> None:
    assert bubble_share(schedule, 4, n_micro_batches) < 0.5 * bubble_share("Interleaved1F1B", 4, n_micro_batches)
    assert bubble_share(schedule, 4, n_micro_batches) < 0.25 * bubble_share("1F1B", 4, n_micro_batches)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_micro_batch_goes_through_every_stage_once_each_way(schedule: str) -> None:
    order = [one for rank in passes_by_rank(schedule, 2, 6) for one in rank]
    n_stages = max(one.stage for one in order) + 1
    assert n_stages == (2 if SCHEDULES[schedule].stages_per_rank == 1 else 4)
    assert len(set(order)) == len(order)
    for stage in range(n_stages):
        for n in range(6):
            assert Pass("F", stage, n) in order
            whole, halves = Pass("B", stage, n) in order, [Pass(kind, stage, n) in order for kind in "IW"]
            assert halves == [not whole] * 2


def test_the_table_has_a_line_a_schedule_and_marks_what_cannot_run() -> None:
    lines = bubble_table(4, (4, 8)).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["schedule", "M=4", "M=8"],
        ["GPipe", "42.9%", "27.3%"],
        ["1F1B", "42.9%", "27.3%"],
    ]
    assert lines[-1].split()[:2] == ["DualPipeV", "-"]
    assert len(lines) == 1 + len(SCHEDULES)


def test_a_schedule_that_cannot_run_so_many_micro_batches_names_its_rule() -> None:
    with pytest.raises(UserError, match="1F1B needs a micro-batch for each of its 4 stages, but a step has 3"):
        bubble_share("1F1B", 4, 3)
