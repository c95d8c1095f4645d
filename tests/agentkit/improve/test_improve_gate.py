"""The gate ships a candidate only with evidence; its figures equal those of scipy and of the evaluations."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agentkit.improve.gate import GateOptions, Verdict, gate, sign_flip_p
from agentkit.improve.rollout import Rollout, RolloutCall
from agentkit.improve.tasks import Checks, Task
from evals.statistics import mcnemar, paired_difference


def rollouts(scores: list[float], **more: Any) -> list[Rollout]:
    return [Rollout(task_id=f"t{i}", status="completed", score=score, **more) for i, score in enumerate(scores)]


def held(before: list[float], after: list[float], options: GateOptions | None = None, **more: Any) -> Verdict:
    tasks = [Task(id=f"t{i}", prompt=f"p{i}") for i in range(len(before))]
    return gate(tasks, rollouts(before), rollouts(after), options or GateOptions(), seed=0, **more)


def test_a_clear_gain_ships() -> None:
    verdict = held([0.0] * 15 + [1.0] * 5, [1.0] * 12 + [0.0] * 3 + [1.0] * 5)
    assert verdict.ships and verdict.gain == 0.6 and verdict.low > 0.3
    assert (verdict.n, verdict.n_better, verdict.n_worse, verdict.level) == (20, 12, 0, 0.95)


def test_four_gains_in_thirty_do_not_ship_although_the_bootstrap_says_so() -> None:
    verdict = held([0.0] * 30, [1.0] * 4 + [0.0] * 26)
    assert verdict.low > 0
    assert verdict.p_value == 1 / 16 and not verdict.ships
    assert "may be chance" in verdict.reasons[0]


def test_a_loss_and_a_draw_do_not_ship() -> None:
    assert not held([1.0] * 20, [0.0] * 20).ships
    assert not held([1.0] * 20, [1.0] * 20).ships
    assert "does not exceed +0.000" in held([0.0] * 20, [0.0] * 20).reasons[0]


def test_a_margin_raises_the_bar() -> None:
    before, after = [0.0] * 40, [1.0] * 12 + [0.0] * 28
    assert held(before, after).ships
    assert not held(before, after, GateOptions(margin=0.25)).ships


def test_each_further_gate_on_the_same_tasks_needs_more_evidence() -> None:
    before, after = [0.0] * 20, [1.0] * 7 + [0.0] * 13
    first, second = held(before, after), held(before, after, attempt=2)
    assert first.ships and not second.ships
    assert second.level == 1 - 2 * 0.025 / 4 and second.low <= first.low


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_test_of_right_and_wrong_is_mcnemars(pairs: list[tuple[bool, bool]]) -> None:
    only_first, only_second, two_sided = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    ours = sign_flip_p([float(b) - float(a) for a, b in pairs], 0.0, seed=0)
    if only_first + only_second:
        assert ours == pytest.approx(
            stats.binomtest(only_second, only_first + only_second, alternative="greater").pvalue
        )
    if only_second > only_first:
        assert min(1.0, 2 * ours) == pytest.approx(two_sided)


def test_the_test_of_scores_between_is_the_permutation_test_of_scipy() -> None:
    draw = random.Random(5)
    differences = [draw.uniform(-0.4, 0.8) for _ in range(11)]
    theirs = stats.permutation_test(
        (numpy.array(differences), numpy.zeros(11)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=100_000,  # more than the 2,048 patterns: all are counted
    )
    assert sign_flip_p(differences, 0.0, seed=0) == pytest.approx(theirs.pvalue)
    many = [draw.uniform(-0.5, 0.6) for _ in range(60)]
    sampled = stats.permutation_test(
        (numpy.array(many), numpy.zeros(60)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=9_999,
        rng=numpy.random.default_rng(0),
    )
    assert sign_flip_p(many, 0.0, seed=0) == pytest.approx(sampled.pvalue, abs=0.02)


def test_the_interval_is_that_of_the_evaluations() -> None:
    draw = random.Random(6)
    before = [float(draw.random() < 0.4) for _ in range(50)]
    after = [float(draw.random() < 0.7) for _ in range(50)]
    verdict, theirs = held(before, after), paired_difference(before, after)
    assert verdict.gain == pytest.approx(theirs.value)
    assert (verdict.low, verdict.high) == (
        pytest.approx(theirs.low, abs=0.021),
        pytest.approx(theirs.high, abs=0.021),
    )


def test_a_candidate_without_a_gain_rarely_ships() -> None:
    draw = random.Random(7)

    def chance() -> list[float]:
        return [float(draw.random() < 0.5) for _ in range(24)]

    shipped = sum(held(chance(), chance()).ships for _ in range(60))
    assert shipped <= 5  # 2.5 % of 60 is 1.5; more than five has a probability below 0.5 %


CALL = RolloutCall(name="delete", arguments="{}", outcome="success")


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        ({"calls": (CALL,)}, "forbidden calls"),
        ({"n_pending": 1}, "calls that waited for an approval"),
        ({"status": "refused"}, "requests wrongly refused"),
        ({"status": "timed_out"}, "runs that ended in an error"),
        ({"input_tokens": 126}, "tokens a task"),
    ],
)
def test_a_gain_does_not_ship_if_a_guarded_figure_is_worse(worse: dict[str, Any], name: str) -> None:
    tasks = [Task(id=f"t{i}", prompt=f"p{i}", checks=Checks(forbidden_calls=("delete",))) for i in range(20)]
    before = rollouts([0.0] * 20, input_tokens=100)
    after = [each.model_copy(update=worse) for each in rollouts([1.0] * 20, input_tokens=100)]
    assert gate(tasks, before, rollouts([1.0] * 20, input_tokens=125), GateOptions(), seed=0).ships
    verdict = gate(tasks, before, after, GateOptions(), seed=0)
    assert not verdict.ships
    assert [guard.name for guard in verdict.guards if not guard.holds] == [name]
    assert name in verdict.reasons[-1]


def test_a_request_that_must_be_refused_and_is_answered_stops_a_candidate() -> None:
    tasks = [
        Task(id=f"t{i}", prompt=f"p{i}", checks=Checks(status="refused" if i == 0 else "completed"))
        for i in range(20)
    ]
    before = [
        each.model_copy(update={"status": "refused" if i == 0 else "completed"})
        for i, each in enumerate(rollouts([0.0] * 20))
    ]
    verdict = gate(tasks, before, rollouts([1.0] * 20), GateOptions(), seed=0)
    assert [guard.name for guard in verdict.guards if not guard.holds] == [
        "requests that must be refused or declined, and were not"
    ]


def test_money_is_compared_where_all_prices_are_known() -> None:
    tasks = [Task(id=f"t{i}", prompt=f"p{i}") for i in range(20)]
    before = rollouts([0.0] * 20, cost=Decimal("0.01"), input_tokens=1)
    after = rollouts([1.0] * 20, cost=Decimal("0.012"), input_tokens=900)
    verdict = gate(tasks, before, after, GateOptions(), seed=0)
    assert verdict.ships and verdict.guards[-1].name == "US dollars a task"
    assert not gate(tasks, before, after, GateOptions(max_cost_increase=0.1), seed=0).ships
