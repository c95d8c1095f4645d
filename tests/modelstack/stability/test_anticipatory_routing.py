"""Experts chosen ahead: by which weights, from when to when; exact after a resume and after a roll-back."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.config import build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.stability.anticipatory import (
    AnticipatoryConfig,
    AnticipatoryLoader,
    AnticipatoryRouting,
    chosen_now,
)
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import LoopConfig, Run, train
from modelstack.train.step import local_state

TOY: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ("full_attention",) * 3,
    "mlp_layer_types": ("hash_moe", "dense", "moe"),
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "scoring_func": "sqrtsoftplus",
    "score_correction_bias": True,
    "num_nextn_predict_layers": 1,
    "mtp_loss_coef": 0.1,
}
ROUTED = {2, 3}
"""The layer that routes by scores, and the module of multi-token prediction."""
ROWS = 2


def row(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 32, (1,), generator=generator) + torch.arange(9)
    return (ids + (torch.rand(9, generator=generator) < 0.2)) % 32


class Drawn:
    """A loader: random rows that their position decides; each rank takes its own."""

    def __init__(self, rows: int = ROWS, rank: int = 0, world: int = 1) -> None:
        self.position, self.rows, self.rank, self.world = 0, rows, rank, world

    def __iter__(self) -> Iterator[Batch]:
        while True:
            ids = torch.stack([row(self.position + n) for n in range(self.rows * self.world)])
            ids = ids[self.rank * self.rows :][: self.rows]
            self.position += self.rows * self.world
            yield Batch(ids, next_token_labels(ids), torch.zeros_like(ids), self.position - self.rows * self.world)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def make(
    folder: Path,
    events: list[str],
    *,
    seed: int = 0,
    n_steps: int = 24,
    micro_batches: int = 1,
    delay: int = 3,
    healthy: int = 4,
) -> Run:
    model = initialise(CausalLM(build(TOY).with_(initializer_range=0.2)), seed)
    state = local_state(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    loader = AnticipatoryLoader(Drawn(), lambda batch: chosen_now(model, batch), delay * micro_batches)
    routing = AnticipatoryRouting(
        loader, AnticipatoryConfig(delay_steps=delay, healthy_steps=healthy), events.append
    )
    guard = Guard(GuardConfig(window=16, warmup=4, skips_in_a_row=2))
    supervisor = GuardedRun(
        guard, LocalStore(folder, keep=9), SupervisorConfig(save_every=4), events.append, routing.after_roll_back
    )
    loop = LoopConfig(n_steps=n_steps, micro_batches=micro_batches)
    return Run(loop, state, loader, lambda step: 1.0, supervisor, {"anticipatory": routing})


def loader_of(run: Run) -> AnticipatoryLoader:
    assert isinstance(run.loader, AnticipatoryLoader)
    return run.loader


def as_stored(choices: Any) -> dict[int, list[list[int]]]:
    return {layer: experts_Nk.tolist() for layer, experts_Nk in choices.items()}


def spoil(run: Run, steps: range) -> None:
    layer: Any = run.state.model.get_submodule("model.layers.1")
    layer.register_forward_hook(lambda module, args, y: y * math.nan if run.state.step in steps else y)


def recorded(run: Run) -> tuple[list[Batch], list[dict[str, Tensor]]]:
    """Run to the end; return the batches as they were trained on, and the weights at the start of each step."""
    batches, weights = [], []
    inner = loader_of(run)

    class Recording:
        def __iter__(self) -> Iterator[Batch]:
            for batch in inner:
                batches.append(batch)
                yield batch

        state_dict, load_state_dict = inner.state_dict, inner.load_state_dict

    run.loader = Recording()
    weights.extend(copy.deepcopy(run.state.model.state_dict()) for _ in train(run))
    run.loader = inner
    return batches, weights


def test_switched_off_batches_pass_as_they_are(tmp_path: Path) -> None:
    run = make(tmp_path, [], n_steps=3)
    batches, _ = recorded(run)
    assert [batch.position for batch in batches] == [0, 2, 4]
    assert all(not batch.forced_experts for batch in batches)
    assert loader_of(run).state_dict() == {
        "inner": {"position": 6},
        "is_on": False,
        "n_rows": 0,
        "choices": {},
    }


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_batch_is_routed_by_the_weights_of_dt_steps_before(tmp_path: Path, micro_batches: int) -> None:
    delay, n_steps = 3, 8
    run = make(tmp_path, [], n_steps=n_steps, micro_batches=micro_batches, delay=delay, healthy=99)
    start = copy.deepcopy(run.state.model.state_dict())
    loader_of(run).switch_on()
    batches, after = recorded(run)
    assert [batch.position for batch in batches] == [ROWS * n for n in range(n_steps * micro_batches)]
    weights_at = [start, *after]
    flipped = 0
    for n, batch in enumerate(batches):
        step = n // micro_batches
        run.state.model.load_state_dict(weights_at[max(step - delay, 0)])
        assert as_stored(batch.forced_experts) == as_stored(chosen_now(run.state.model, batch))  # pyright: ignore
        assert batch.forced_experts.keys() == ROUTED
        run.state.model.load_state_dict(weights_at[step])
        flipped += as_stored(batch.forced_experts) != as_stored(chosen_now(run.state.model, batch))  # pyright: ignore
    assert flipped > n_steps // 2, "the weights of the step itself choose otherwise: the test can tell them apart"


def test_forced_choices_train_the_weights_of_the_chosen(tmp_path: Path) -> None:
    run = make(tmp_path, [], n_steps=1)
    loader_of(run).switch_on()
    batch = next(loader_of(run))
    forced = {layer: (experts_Nk + 1) % 8 for layer, experts_Nk in batch.forced_experts.items()}
    output = run.state.model(batch.ids_BT, forced_experts=forced, with_mtp=True)
    assert as_stored({layer: output.routing[layer].experts_Nk for layer in ROUTED}) == as_stored(forced)
    output.logits_BTV.square().mean().backward()
    router = run.state.model.get_parameter("model.layers.2.mlp.gate.weight")
    assert router.grad is not None and router.grad.abs().sum() > 0


def test_a_roll_back_switches_on_and_healthy_steps_switch_off(tmp_path: Path) -> None:
    events: list[str] = []
    run = make(tmp_path, events)
    spoil(run, range(9, 11))
    batches, _ = recorded(run)
    forced = [bool(batch.forced_experts) for batch in batches]
    # Rejected at 9 and 10; on for 4 healthy steps from 11 to 14, then the 3 that wait.
    assert forced == [11 <= step < 18 for step in range(24)]
    assert [batch.position for batch in batches] == [ROWS * n for n in range(24)]
    assert events[-3:] == [
        "went back to the weights of step 8; the data continues from step 11",
        "anticipatory routing on from step 11: experts are chosen 3 steps ahead",
        "anticipatory routing off after step 14: 4 healthy steps in a row; "
        "the batches that wait keep their choices",
    ]


def test_what_waits_is_routed_anew_by_the_restored_weights(tmp_path: Path) -> None:
    events: list[str] = []
    run = make(tmp_path, events, n_steps=11, healthy=99)
    loader_of(run).switch_on()
    spoil(run, range(9, 11))
    for report in train(run):
        if report.step == 8:  # the guard sees nothing of this; choices made from here on are nonsense
            with torch.no_grad():
                run.state.model.get_parameter("model.layers.2.mlp.gate.weight").mul_(-100.0)
    assert events[-2].startswith("went back")
    restored = copy.deepcopy(run.state.model)
    for _ in range(3):
        batch = next(loader_of(run))
        assert as_stored(batch.forced_experts) == as_stored(chosen_now(restored, batch))  # pyright: ignore


@pytest.mark.parametrize(("saved_at", "n_waiting"), [(8, 0), (12, 3), (16, 2)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_resumed_run_is_bit_equal_whatever_waits(
    tmp_path: Path, saved_at: int, n_waiting: int, micro_batches: int
) -> None:
    """From a checkpoint before the switch, while it is on, and while the queue runs out."""

    def spoilt(name: str, seed: int) -> Run:
        run = make(tmp_path / name, [], seed=seed, micro_batches=micro_batches)
        spoil(run, range(9, 11))
        return run

    whole = spoilt("whole", 0)
    expected = [report.losses["total"] for report in train(whole)]
    for report in train(spoilt("stopped", 0)):
        if report.step == saved_at:  # a step past the checkpoint: it is done again
            break
    resumed = spoilt("stopped", 5)
    assert isinstance(resumed.supervisor, GuardedRun) and resumed.supervisor.resume(resumed)
    assert resumed.state.step == saved_at
    assert loader_of(resumed).state_dict()["n_rows"] == n_waiting * micro_batches * ROWS
    rest = [report.losses["total"] for report in train(resumed)]
    assert [loss for loss in rest if math.isfinite(loss)] == [
        loss for loss in expected[saved_at:] if math.isfinite(loss)
    ]
    after = resumed.state.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.state.model.state_dict().items())


def test_a_state_with_more_batches_ahead_than_the_run_keeps_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path, [], n_steps=2, delay=5)
    loader_of(run).switch_on()
    list(train(run))
    state = loader_of(run).state_dict()
    with pytest.raises(UserError, match="10 rows routed in advance, but a batch has 2 on 1 ranks, and at most 3"):
        loader_of(make(tmp_path, [])).load_state_dict(state)


def test_choices_go_on_at_another_world_size() -> None:
    model = initialise(CausalLM(build(TOY).with_(initializer_range=0.2)), 0)

    def loader(rows: int, rank: int = 0, world: int = 1, gather: Any = None) -> AnticipatoryLoader:
        spread = {} if gather is None else {"gather": gather}
        return AnticipatoryLoader(
            Drawn(rows, rank, world),
            lambda batch: chosen_now(model, batch),
            2 * 4 // (rows * world),
            rank=rank,
            world=world,
            **spread,
        )

    def given(loader: AnticipatoryLoader, n: int) -> dict[int, Tensor]:
        parts = [next(loader).forced_experts for _ in range(n)]
        return {layer: torch.cat([part[layer] for part in parts]) for layer in ROUTED}

    of_second: list[Tensor] = []

    def send(own: Tensor) -> Tensor:
        of_second.append(own)
        return torch.cat([own, own])  # what it returns here is the first one's business

    second = loader(2, rank=1, world=2, gather=send)
    first = loader(2, rank=0, world=2, gather=lambda own: torch.cat([own, of_second.pop(0)]))
    for one in (first, second):
        one.switch_on()
        next(one)
    second.state_dict()
    state = first.state_dict()
    assert state["n_rows"] == 8
    with torch.no_grad():
        model.get_parameter("model.layers.2.mlp.gate.weight").neg_()  # choices cannot be made again
    rows_of_two = torch.cat([given(one, 1)[2].unflatten(0, (2, -1)) for one in (first, second)])
    alone = loader(1)
    alone.load_state_dict(state)
    assert torch.equal(given(alone, 4)[2].unflatten(0, (4, -1)), rows_of_two)
    with pytest.raises(UserError, match="8 rows routed in advance, but a batch has 3"):
        loader(3).load_state_dict(state)


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="n_ahead is 0"):
        AnticipatoryLoader(Drawn(), lambda batch: {}, 0)
