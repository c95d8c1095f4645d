"""Schedules start, stay, fall and end as they say, without jumps."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelstack.errors import UserError
from modelstack.train.schedules import TAILS, ScheduleConfig, branch, schedule


def config(**keys: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate(keys)


WSD = config(warmup_steps=10, total_steps=100, decay_steps=40)
STABLE = config(warmup_steps=10)


def test_warm_up_is_linear_and_never_zero() -> None:
    factor = schedule(STABLE)
    assert [factor(step) for step in (0, 4, 9, 10, 10**6)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("shape", "half_way", "last"),
    [("linear", 0.5, 1 / 40), ("cosine", 0.5, None), ("sqrt", 1 - math.sqrt(0.5), None)],
)
def test_wsd_stays_and_then_falls(shape: str, half_way: float, last: float | None) -> None:
    factor = schedule(config(**WSD.model_dump() | {"decay_shape": shape}))
    assert {factor(step) for step in range(10, 61)} == {1.0}
    assert factor(61) < 1.0
    assert factor(80) == pytest.approx(half_way)
    assert last is None or factor(99) == pytest.approx(last)
    assert factor(100) == pytest.approx(0.0) and factor(1000) == pytest.approx(0.0)


@pytest.mark.parametrize("shape", TAILS)
def test_a_tail_ends_at_the_final_factor(shape: str) -> None:
    factor = schedule(config(**WSD.model_dump() | {"decay_shape": shape, "final_factor": 0.1}))
    assert factor(60) == 1.0
    assert factor(100) == pytest.approx(0.1)


def test_cosine_falls_from_the_warm_up_to_the_end() -> None:
    factor = schedule(config(kind="cosine", warmup_steps=10, total_steps=110, final_factor=0.2))
    assert factor(9) == factor(10) == pytest.approx(1.0)
    assert factor(60) == pytest.approx(0.6)
    assert factor(110) == pytest.approx(0.2)


def test_constant_stays() -> None:
    factor = schedule(config(kind="constant"))
    assert {factor(0), factor(10**9)} == {1.0}


@given(
    warmup=st.integers(0, 50),
    stable=st.integers(0, 50),
    decay=st.integers(1, 200),
    shape=st.sampled_from(sorted(TAILS)),
    kind=st.sampled_from(["wsd", "cosine"]),
    final=st.floats(0, 1),
)
def test_there_are_no_jumps(warmup: int, stable: int, decay: int, shape: str, kind: str, final: float) -> None:
    n_decay = decay if kind == "wsd" else stable + decay
    keys: dict[str, Any] = {"decay_steps": decay, "decay_shape": shape} if kind == "wsd" else {}
    total = warmup + stable + decay
    made = config(kind=kind, warmup_steps=warmup, total_steps=total, final_factor=final, **keys)
    factors = [schedule(made)(step) for step in range(total + 2)]
    # the steepest tail is the square root's first step; a cosine's slope is pi / 2 at most
    steepest = max(math.sqrt(1 / n_decay) if (kind, shape) == ("wsd", "sqrt") else math.pi / 2 / n_decay, 0.0)
    limit = max(steepest, 1 / warmup if warmup else 0.0) + 1e-9
    assert all(abs(after - before) <= limit for before, after in pairwise(factors))
    assert all(0 <= value <= 1 for value in factors)
    assert all(after <= before + 1e-12 for before, after in pairwise(factors[warmup:]))


@given(step=st.integers(10, 500), decay=st.integers(1, 100), shape=st.sampled_from(sorted(TAILS)))
def test_a_branch_is_the_stable_run_up_to_its_step(step: int, decay: int, shape: str) -> None:
    stable = config(warmup_steps=10, decay_shape=shape, final_factor=0.1)
    branched = branch(stable, step, decay)
    before, after = schedule(stable), schedule(branched)
    assert [after(s) for s in range(step + 1)] == [before(s) for s in range(step + 1)]
    assert after(step + 1) < 1.0
    assert after(step + decay) == pytest.approx(0.1)


def test_a_branch_of_a_run_with_an_end_may_start_where_its_own_decay_does() -> None:
    assert branch(WSD, 60, 40) == WSD
    assert branch(WSD, 30, 10) == config(warmup_steps=10, total_steps=40, decay_steps=10)


@pytest.mark.parametrize(
    ("of", "step", "message"),
    [
        (WSD, 61, "step 61 is in the decay; branch at 60 or earlier"),
        (STABLE, 9, "step 9 is in the warm-up; branch at 10 or later"),
        (config(kind="constant"), 5, "a constant schedule has no stable part"),
    ],
)
def test_a_branch_from_where_the_run_is_not_stable_is_refused(of: ScheduleConfig, step: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        branch(of, step, 10)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "constant", "total_steps": 5}, "has no total_steps"),
        ({"kind": "cosine"}, "requires total_steps"),
        ({"kind": "cosine", "total_steps": 9, "decay_steps": 2}, "no decay_steps"),
        ({"total_steps": 9}, "requires both total_steps and decay_steps, or neither"),
        ({"total_steps": 9, "decay_steps": 5, "warmup_steps": 5}, "do not fit into total_steps 9"),
        ({"steps": 9}, "Extra inputs are not permitted"),
    ],
)
def test_steps_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)
