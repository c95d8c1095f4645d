"""The guard rejects what would harm, and nothing else; its memory cannot be poisoned."""

import json
import math
import random

import pytest

from modelstack.stability.guard import Guard, GuardConfig, Memory, Verdict, judge, threshold


def healthy(step: int, random_: random.Random) -> tuple[float, float]:
    """A falling loss with noise, and norms that scatter by factors."""
    return 5.0 * (step + 5) ** -0.15 + random_.gauss(0, 0.08), math.exp(random_.gauss(0, 0.4))


def run(guard: Guard, n: int, seed: int = 0, start: int = 0) -> list[Verdict]:
    random_ = random.Random(seed)
    return [guard.judge(*healthy(start + step, random_)).verdict for step in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_run_has_no_false_alarm(seed: int) -> None:
    assert set(run(Guard(GuardConfig()), 2000, seed)) == {Verdict.GO}


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, 1.0, "loss is inf"),
        (3.0, math.nan, "gradient norm is nan"),
        (3.0, math.inf, "gradient norm is inf"),
    ],
)
def test_what_is_not_finite_is_rejected_from_the_first_step(loss: float, norm: float, reason: str) -> None:
    judgement = Guard(GuardConfig()).judge(loss, norm)
    assert judgement.verdict is Verdict.SKIP
    assert judgement.reason == reason


def test_spikes_of_loss_and_of_norm_are_skipped_and_named() -> None:
    guard = Guard(GuardConfig())
    run(guard, 200)
    assert "loss 3000 is above" in guard.judge(3000.0, 1.0).reason
    assert "gradient norm 1000 is above" in guard.judge(2.3, 1000.0).reason
    assert guard.judge(*healthy(200, random.Random(1))).verdict is Verdict.GO


def test_a_spike_does_not_hide_a_smaller_one_behind_it() -> None:
    guard = Guard(GuardConfig())
    run(guard, 200)
    assert guard.judge(3000.0, 1.0).verdict is Verdict.SKIP
    run(guard, 5, start=201)
    assert guard.judge(25.0, 1.0).verdict is Verdict.SKIP


def test_after_a_nan_healthy_steps_go_on_at_once() -> None:
    guard = Guard(GuardConfig())
    run(guard, 200)
    guard.judge(math.nan, math.nan)
    assert set(run(guard, 300, start=201)) == {Verdict.GO}


def test_several_bad_steps_in_a_row_roll_back_and_in_the_end_stop() -> None:
    guard = Guard(GuardConfig(skips_in_a_row=3, max_roll_backs=2))
    run(guard, 100)
    saved = guard.state_dict()
    for _ in range(2):
        assert [guard.judge(math.nan, 1.0).verdict for _ in range(3)] == [
            Verdict.SKIP,
            Verdict.SKIP,
            Verdict.ROLL_BACK,
        ]
        guard.roll_back(saved)
    assert [guard.judge(math.nan, 1.0).verdict for _ in range(3)][-1] is Verdict.STOP
    assert guard.memory.n_skipped == 9


def test_many_bad_steps_between_good_ones_roll_back_too() -> None:
    guard = Guard(GuardConfig(skips_in_window=5))
    run(guard, 100)
    verdicts = []
    for step in range(5):
        verdicts.append(guard.judge(math.nan, 1.0).verdict)
        guard.judge(*healthy(100 + step, random.Random(step)))
    assert verdicts == [Verdict.SKIP] * 4 + [Verdict.ROLL_BACK]


def test_a_roll_back_forgets_the_bad_steps_and_keeps_the_counters() -> None:
    guard = Guard(GuardConfig())
    run(guard, 100)
    saved = guard.state_dict()
    guard.judge(math.nan, 1.0)
    guard.roll_back(saved)
    assert guard.memory.recent == ()
    assert (guard.memory.n_roll_backs, guard.memory.n_skipped) == (1, 1)


def test_the_memory_is_json_and_a_resumed_guard_judges_the_same() -> None:
    first = Guard(GuardConfig())
    run(first, 300)
    second = Guard(GuardConfig())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.memory == first.memory
    assert run(first, 50, 7, 300) == run(second, 50, 7, 300)
    assert second.judge(3000.0, 1.0).verdict is Verdict.SKIP


def test_the_worst_rank_decides_and_the_others_do_not_learn_from_the_step() -> None:
    guard = Guard(GuardConfig(), worst_of_ranks=lambda own: max(own, int(Verdict.SKIP)))
    judgement = guard.judge(2.0, 1.0)
    assert judgement.verdict is Verdict.SKIP
    assert "another rank" in judgement.reason
    assert guard.memory.losses == ()
    assert guard.memory.n_skipped == 1


def test_thresholds_are_those_of_a_normal_distribution() -> None:
    random_ = random.Random(0)
    values = tuple(random_.gauss(10, 2) for _ in range(20_000))
    assert threshold(values, 3.0) == pytest.approx(16.0, abs=0.15)


def test_a_constant_window_does_not_reject_the_next_small_change() -> None:
    config, memory = GuardConfig(), Memory()
    for _ in range(100):
        memory, _ = judge(config, memory, 2.0, 1.0)
    assert judge(config, memory, 2.1, 1.2)[1].verdict is Verdict.GO
    assert judge(config, memory, 2.5, 1.0)[1].verdict is Verdict.SKIP


def test_the_window_has_an_end() -> None:
    guard = Guard(GuardConfig(window=16, warmup=8))
    run(guard, 100)
    assert len(guard.memory.losses) == len(guard.memory.log_norms) == len(guard.memory.recent) == 16


def test_a_loss_around_0_is_judged_by_an_absolute_rise() -> None:
    calm = [(-1) ** n * 1e-8 for n in range(40)]
    for floor, is_rejected in ((0.0, True), (1.0, False)):
        guard = Guard(GuardConfig(warmup=8, min_loss_rise_absolute=floor))
        assert all(guard.judge(loss, 1.0).verdict is Verdict.GO for loss in calm)
        assert (guard.judge(0.01, 1.0).verdict is Verdict.SKIP) == is_rejected
        assert guard.judge(20.0, 1.0).verdict is Verdict.SKIP
