"""Decisions of the scheduler: bounds, order, progress and preemption, for any load."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.scheduler import (
    PRIORITY_LEAD,
    Load,
    StepLimits,
    displaced,
    plan_running,
    tokens_admitted,
)

B = 4


@st.composite
def running_loads(draw: st.DrawFn) -> list[Load]:
    made = []
    for number in draw(st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=8)):
        computed = draw(st.integers(0, 40))
        held = -(-computed // B) + draw(st.integers(0, 1))
        made.append(
            Load(
                number,
                draw(st.integers(-2, 2)),
                computed + draw(st.integers(1, 60)),
                computed,
                held,
                n_released=draw(st.integers(0, held)),
            )
        )
    return made


@settings(max_examples=300, deadline=None)
@given(running_loads(), st.integers(0, 30), st.integers(8, 64))
def test_a_plan_keeps_every_bound_and_preempts_only_from_the_end(
    rows: list[Load], n_free: int, max_tokens: int
) -> None:
    plan = plan_running(rows, n_free, B, StepLimits(8, max_tokens))
    by_number = {row.number: row for row in rows}
    assert set(plan.n_tokens).isdisjoint(plan.preempted) and len(set(plan.preempted)) == len(plan.preempted)
    assert sum(plan.n_tokens.values()) + plan.tokens_left == max_tokens
    needed = 0
    for number, n in plan.n_tokens.items():
        row = by_number[number]
        assert 1 <= n <= row.n_missing
        needed += max(0, -(-(row.n_computed + n) // B) - row.n_blocks)
    assert needed <= n_free + sum(by_number[number].n_released for number in plan.preempted)
    order = sorted(rows, key=lambda row: row.rank)
    preempted = set(plan.preempted)
    assert {row.number for row in order[len(order) - len(preempted) :]} == preempted
    if not plan.preempted:
        assert set(plan.n_tokens) == set(by_number)


@settings(max_examples=200, deadline=None)
@given(running_loads(), st.integers(8, 64))
def test_with_blocks_for_all_every_request_makes_progress_and_the_budget_is_used(
    rows: list[Load], max_tokens: int
) -> None:
    plan = plan_running(rows, 10_000, B, StepLimits(8, max_tokens))
    assert set(plan.n_tokens) == {row.number for row in rows} and not plan.preempted
    missing = sum(row.n_missing for row in rows)
    assert sum(plan.n_tokens.values()) == min(missing, max_tokens)


def load(number: int, *, priority: int = 0, known: int = 9, computed: int = 8, **counts: int) -> Load:
    return Load(number, priority, known, computed, -(-computed // B), **counts)


def test_a_long_prompt_is_read_beside_replies_that_go_on() -> None:
    rows = [load(0, known=500, computed=0), load(1), load(2)]
    plan = plan_running(rows, 100, B, StepLimits(4, 16))
    assert plan.n_tokens == {0: 14, 1: 1, 2: 1}


def test_the_least_urgent_is_preempted_first_by_priority_and_then_by_arrival() -> None:
    rows = [load(0), load(1, n_released=2), load(2, priority=-1, n_released=2), load(3, n_released=2)]
    plan = plan_running(rows, 0, B, StepLimits())
    assert plan.preempted == (2,)
    assert set(plan.n_tokens) == {0, 1}  # two blocks for the first two; the third has no room in this step
    without = [row for row in rows if row.number != 2]
    assert plan_running(without, 0, B, StepLimits()).preempted == (3,)


def test_a_request_that_is_last_and_finds_no_block_gives_up_its_own() -> None:
    assert plan_running([load(0, n_released=2)], 0, B, StepLimits()).preempted == (0,)


def test_a_request_is_admitted_if_its_whole_prompt_finds_blocks() -> None:
    head = load(7, known=11, computed=4, n_revived=1)  # 12 tokens in 3 blocks, one of them cached and free

    def admitted(n_free: int, *, n_running: int = 1, left: int = 64) -> int:
        return tokens_admitted(head, n_running, n_free, left, B, StepLimits(2, 64))

    assert (admitted(3), admitted(2)) == (7, 0)
    assert admitted(3, n_running=2) == 0
    assert admitted(3, left=5) == 5


def test_only_lower_priorities_give_way_and_only_if_that_helps() -> None:
    limits = StepLimits(2, 64)
    urgent = load(9, priority=1, known=4, computed=0)
    rows = [load(0, n_released=2), load(1, n_released=2)]
    assert displaced(urgent, rows, 0, B, limits) == (1,)
    assert displaced(load(9, known=4, computed=0), rows, 0, B, limits) == ()
    assert displaced(urgent, rows, 8, B, StepLimits(3, 64)) == ()  # there is room
    huge = load(9, priority=1, known=400, computed=0)
    assert displaced(huge, rows, 0, B, limits) == ()


def test_a_priority_overtakes_a_bounded_number_of_earlier_requests() -> None:
    assert load(PRIORITY_LEAD - 1, priority=1).rank < load(0).rank < load(PRIORITY_LEAD + 1, priority=1).rank


def test_limits_without_a_token_per_row_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows is 8 and max_tokens 4"):
        StepLimits(8, 4)
