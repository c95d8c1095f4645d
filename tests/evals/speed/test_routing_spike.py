"""The routing spike's benchmark: what it injects, and that anticipatory routing outlasts it, roll-backs do not."""

from __future__ import annotations

import pytest
import torch

from evals.speed.routing_spike import (
    AHEAD,
    CLEAN,
    N_STEPS,
    PLAIN,
    RoutingFeedback,
    Successors,
    recovered,
    run_once,
    to_result,
    toy,
)
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.data.batches import Batch
from modelstack.train.loop import LoopConfig, Run
from modelstack.train.step import StepReport, local_state


def weights_after(changed: bool, step: int, rejected: str = "") -> tuple[list[float], bool]:
    """Return the flips of two steps, and whether routers were struck; `changed`: another router for the second."""
    model = initialise(CausalLM(toy()), 0)
    loader = iter(Successors(0))
    feedback = RoutingFeedback(model, range(5, 10), seed=0)
    state = local_state(model, torch.optim.SGD(model.parameters(), lr=0.0))
    run = Run(LoopConfig(n_steps=2), state, Successors(0), lambda step: 1.0)
    router = model.get_parameter("model.layers.1.mlp.gate.weight")
    for number in (step - 1, step):
        batch: Batch = next(loader)
        if changed and number == step:
            router.data = router.data.roll(1, 0)
        feedback.about_to_train(batch)
        model(batch.ids_BT)
        before = router.detach().clone()
        feedback.after_step(run, StepReport(number, rejected=rejected))
    return feedback.flips, not torch.equal(before, router)


def test_routers_that_stay_flip_nothing_and_are_not_struck() -> None:
    assert weights_after(changed=False, step=7) == ([0.0, 0.0], False)


def test_routers_that_change_are_struck_in_the_window_only_and_only_by_steps_that_were_taken() -> None:
    flips, struck = weights_after(changed=True, step=7)
    assert flips[0] == 0.0 and 0.3 < flips[1] <= 0.5, "one of two layers routes anew"
    assert struck
    assert not weights_after(changed=True, step=11)[1]
    assert not weights_after(changed=True, step=7, rejected="no")[1]


@pytest.mark.slow
def test_anticipatory_routing_outlasts_the_spike_and_a_plain_roll_back_does_not() -> None:
    outcomes = {0: {way: run_once(0, way) for way in (CLEAN, PLAIN, AHEAD)}}
    assert recovered(outcomes[0], AHEAD)
    assert not recovered(outcomes[0], PLAIN)
    assert outcomes[0][CLEAN].n_rejected == outcomes[0][CLEAN].n_roll_backs == 0
    assert outcomes[0][PLAIN].n_roll_backs >= 1
    events = outcomes[0][AHEAD].events
    assert any("anticipatory routing on" in event for event in events)
    assert any("anticipatory routing off" in event for event in events)
    assert not to_result(outcomes, [0.2], N_STEPS).broken
