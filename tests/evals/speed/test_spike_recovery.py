"""The spike benchmark's rules do what they say, and its scores count what they claim to."""

from __future__ import annotations

import math
import random

import pytest
import torch

from evals.speed.byte_runs import ByteRows, corpus, held_out_bits, model_keys, new_model
from evals.speed.spike_recovery import QUICK, false_alarms, healthy_lost, percent_worse, steps_to_return
from evals.speed.spike_rules import SkipStepAdamW, olmo_factor
from evals.speed.spike_runs import CLEAN, OLMO, OURS, PALM, UNGUARDED, Outcome, Sizes, Spec, run_one

TINY = Sizes(n_steps=90, fault_step=70, width=64, layers=1, rows=2, row_tokens=16, evaluated_rows=4, final_rows=8)


def test_a_skip_step_optimizer_that_skips_nothing_is_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = SkipStepAdamW(ours.parameters(), **settings), torch.optim.AdamW(theirs.parameters(), **settings)
    for _ in range(20):
        x = torch.randn(5, 4)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-6)


def test_a_factor_of_0_keeps_weights_from_a_large_gradient_and_not_from_a_nan() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = SkipStepAdamW(model.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer.factor = 0.0
    before = model.weight.detach().clone()
    for value, is_kept in ((1e9, True), (math.nan, False)):
        model.weight.grad = torch.full_like(model.weight, value)
        optimizer.step()
        assert torch.equal(model.weight, before) == is_kept


def test_olmos_rule_looks_from_64_values_on_and_is_blind_for_a_window_behind_a_nan() -> None:
    numbers = random.Random(0)
    losses = [3 + numbers.gauss(0, 0.1) for _ in range(200)]
    norms = [1.0 + numbers.gauss(0, 0.1) for _ in range(200)]
    assert olmo_factor([*losses[:62], 1e6], norms[:63]) == 1
    assert olmo_factor([*losses[:63], 1e6], norms[:64]) == 0
    assert olmo_factor(losses[:100], norms[:100]) == 1
    assert olmo_factor(losses[:100], [*norms[:99], 50.0]) == 0
    assert olmo_factor([*losses[:50], math.nan, *losses[50:100]], norms[:101]) == 0


def test_a_batch_is_a_function_of_its_position_and_ranks_share_its_rows() -> None:
    whole = ByteRows(4, 16, seed=3)
    parts = [ByteRows(2, 16, seed=3, rank=rank, world=2) for rank in (0, 1)]
    batch = next(iter(whole))
    halves = [next(iter(part)) for part in parts]
    assert torch.equal(batch.ids_BT, torch.cat([half.ids_BT for half in halves]))
    assert torch.equal(batch.labels_BT[:, :-1], batch.ids_BT[:, 1:])
    resumed = ByteRows(4, 16, seed=3)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(next(iter(resumed)).ids_BT, next(iter(whole)).ids_BT)


def test_an_untrained_model_has_about_eight_bits_and_the_text_is_split() -> None:
    assert held_out_bits(new_model(model_keys(width=64, layers=1), 0), 4, 32) == pytest.approx(8, abs=0.5)
    held_out, trained = corpus(held_out=True), corpus(held_out=False)
    assert 0.02 < len(held_out) / len(trained) < 0.1


def test_scores_count_healthy_steps_and_the_way_back() -> None:
    clean = Outcome(final_bits=2.0, curve=[(n, n, 3.0) for n in range(10, 101, 10)])
    outcome = Outcome(
        final_bits=2.1,
        curve=[(10, 10, 3.0), (80, 80, 3.5), (90, 90, 3.02), (100, 100, 3.0)],
        skipped=[5, 75, 76],
        n_undone=3,
    )
    assert percent_worse(outcome, clean) == pytest.approx(5.0)
    assert percent_worse(Outcome(final_bits=math.nan), clean) == math.inf
    assert steps_to_return(outcome, clean, 75) == 15
    outcome.curve.append((110, 100, math.nan))
    assert steps_to_return(outcome, clean, 75) is None
    assert healthy_lost(Spec(OURS, "NaN gradient", 0), outcome, QUICK) == (2, 3)
    assert healthy_lost(Spec(OURS, "random tokens", 0), outcome, QUICK) == (1, 3)


def test_false_alarms_of_each_rule_are_counted_on_a_clean_curve() -> None:
    numbers = random.Random(1)
    calm = Outcome(
        losses=[3 + numbers.gauss(0, 0.05) for _ in range(200)], norms=[1.0 + 0.01 * n for n in range(200)]
    )
    assert false_alarms(calm) == {OLMO: 0, PALM: 0, OURS: 0}
    calm.losses[150] = 4.5
    calm.skipped = [150]
    assert false_alarms(calm) == {OLMO: 1, PALM: 1, OURS: 1}


@pytest.mark.slow
def test_a_nan_gradient_ruins_runs_without_a_guard_and_with_a_factor_and_not_ours() -> None:
    torch.set_num_threads(1)
    clean = run_one(Spec(OURS, CLEAN, 7), TINY)
    assert clean.skipped == []
    outcomes = {rule: run_one(Spec(rule, "NaN gradient", 7), TINY) for rule in (UNGUARDED, OLMO, PALM, OURS)}
    assert [rule for rule, outcome in outcomes.items() if math.isnan(outcome.final_bits)] == [UNGUARDED, OLMO]
    assert outcomes[OURS].skipped == [70]
    assert outcomes[OURS].losses[:70] == clean.losses[:70]
    assert outcomes[PALM].n_trained > 90 == outcomes[OURS].n_trained
    assert abs(percent_worse(outcomes[OURS], clean)) < 3
