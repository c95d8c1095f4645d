"""A training step: micro-batches add up, a rejected step moves nothing, a state comes back bit for bit."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import load_run, save_run
from modelstack.train.step import TrainState, local_state, train_step

TOY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ("full_attention",) * 2,
    "mlp_layer_types": ("dense",) * 2,
}
MOE: dict[str, Any] = TOY | {
    "mlp_layer_types": ("dense", "moe"),
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "scoring_func": "sigmoid",
    "score_correction_bias": True,
    "seq_aux_loss_coef": 1e-2,
}


def state_of(config: ModelConfig, seed: int = 0) -> TrainState:
    model = initialise(CausalLM(config), seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return local_state(model, optimizer)


def batch(seed: int, rows: int = 4, length: int = 12, masked: int = 0) -> Batch:
    ids = torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:]
    labels[0, :masked] = IGNORED
    documents = (torch.arange(length) >= length // 2).long().expand_as(ids)
    labels[:, length // 2 - 1] = IGNORED
    return Batch(ids, labels, documents, position=seed * rows)


def rows_of(whole: Batch, start: int, end: int) -> Batch:
    rows = slice(start, end)
    return replace(
        whole,
        ids_BT=whole.ids_BT[rows],
        labels_BT=whole.labels_BT[rows],
        documents_BT=whole.documents_BT[rows],
        weights_BT=None if whole.weights_BT is None else whole.weights_BT[rows],
    )


def weights(state: TrainState) -> dict[str, Tensor]:
    return copy.deepcopy(state.model.state_dict())


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.parametrize("keys", [TOY, TOY | {"z_loss_coef": 1e-2}], ids=["plain", "z-loss"])
def test_micro_batches_add_up_to_one_batch(keys: dict[str, Any]) -> None:
    whole = batch(1, masked=5)
    one, two = state_of(build(keys)), state_of(build(keys))
    a = train_step(one, [whole])
    b = train_step(two, [rows_of(whole, 0, 1), rows_of(whole, 1, 4)])
    assert b.losses["total"] == pytest.approx(a.losses["total"], abs=1e-6)
    assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-5)
    assert largest_difference(weights(one), weights(two)) < 1e-5
    assert a.n_tokens == b.n_tokens == 48


def reply_batch(seed: int, is_weighted: bool = True) -> Batch:
    """Return a batch of which few tokens are labelled, each with a weight of its own."""
    whole = batch(seed)
    labels = whole.labels_BT.clone()
    labels[:, :8] = IGNORED
    labels[0, :10] = IGNORED
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) * 3
    return replace(whole, labels_BT=labels, weights_BT=weights if is_weighted else None)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_micro_batches_of_few_and_weighted_labels_add_up_to_one_batch(is_weighted: bool) -> None:
    whole = reply_batch(1, is_weighted)
    one, two = state_of(build(TOY | {"z_loss_coef": 1e-2})), state_of(build(TOY | {"z_loss_coef": 1e-2}))
    a = train_step(one, [whole])
    b = train_step(two, [rows_of(whole, 0, 1), rows_of(whole, 1, 4)])
    assert b.losses["total"] == pytest.approx(a.losses["total"], abs=1e-6)
    assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-5)
    assert largest_difference(weights(one), weights(two)) < 1e-5


@pytest.mark.parametrize("token_loss", ["cross_entropy", "dft"])
def test_a_step_on_weighted_labels_has_the_weighted_mean_as_its_loss(token_loss: Any) -> None:
    one = reply_batch(1)
    state = state_of(build(TOY))
    assert isinstance(state.model, CausalLM)
    logits = state.model(one.ids_BT, documents_BT=one.documents_BT).logits_BTV
    log_p = logits.log_softmax(-1).gather(2, one.labels_BT.clamp(min=0)[..., None])[..., 0]
    cost = -log_p * log_p.exp() if token_loss == "dft" else -log_p
    assert one.weights_BT is not None
    w = one.weights_BT * (one.labels_BT != IGNORED)
    report = train_step(local_state(state.model, state.optimizer, token_loss=token_loss), [one])
    assert report.losses[token_loss] == pytest.approx(((w * cost).sum() / w.sum()).item(), rel=1e-5)


def test_labels_that_all_weigh_nothing_are_refused() -> None:
    one = reply_batch(1)
    with pytest.raises(UserError, match="no token of 1 batches has a label with weight"):
        train_step(state_of(build(TOY)), [replace(one, weights_BT=torch.zeros_like(one.labels_BT).float())])


def test_a_moved_batch_keeps_its_weights() -> None:
    moved = reply_batch(1).to(torch.device("meta"))
    assert moved.weights_BT is not None
    assert moved.weights_BT.is_meta


def test_a_model_learns_a_batch() -> None:
    state = state_of(build(TOY))
    reports = [train_step(state, [batch(1)]) for _ in range(40)]
    assert reports[-1].losses["total"] < 0.5 * reports[0].losses["total"]
    assert (state.step, state.n_tokens) == (40, 40 * 48)


@pytest.mark.parametrize("keys", [TOY, MOE], ids=["dense", "moe"])
def test_a_rejected_step_moves_nothing_but_the_data(keys: dict[str, Any]) -> None:
    state = state_of(build(keys))
    train_step(state, [batch(1)])
    before, moments = weights(state), copy.deepcopy(state.optimizer.state_dict()["state"])
    report = train_step(state, [batch(2)], judge=lambda loss, norm: "no")
    assert report.rejected == "no"
    assert largest_difference(before, weights(state)) == 0.0
    after = state.optimizer.state_dict()["state"]
    assert all(torch.equal(after[n][key], moments[n][key]) for n in moments for key in moments[n])
    assert state.step == 2
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_a_guard_keeps_nan_out_of_the_weights() -> None:
    state, guard = state_of(build(TOY)), Guard(GuardConfig())
    train_step(state, [batch(1)], judge=lambda loss, norm: guard.judge(loss, norm).reason)
    layer: Any = state.model.get_submodule("model.layers.0")
    handle = layer.register_forward_hook(lambda module, args, output: output * math.nan)
    report = train_step(state, [batch(2)], judge=lambda loss, norm: guard.judge(loss, norm).reason)
    handle.remove()
    assert report.rejected == "loss is nan"
    assert all(parameter.isfinite().all() for parameter in state.model.parameters())
    assert not train_step(state, [batch(3)], judge=lambda loss, norm: guard.judge(loss, norm).reason).rejected


def test_the_balancing_bias_moves_once_a_step_on_the_load_of_all_micro_batches() -> None:
    one, two = state_of(build(MOE)), state_of(build(MOE))
    whole = batch(1)
    train_step(one, [whole])
    train_step(two, [rows_of(whole, 0, 2), rows_of(whole, 2, 4)])
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert weights(one)[name].abs().max() > 0
    assert torch.equal(weights(one)[name], weights(two)[name])


def test_gradients_are_clipped_and_the_norm_before_is_reported() -> None:
    state = state_of(build(TOY))
    optimizer = torch.optim.SGD(state.model.parameters(), lr=1.0)
    state = TrainState(state.model, optimizer, state.passes)
    before = weights(state)
    report = train_step(state, [batch(1)], max_norm=0.01)
    moved = math.sqrt(sum((weights(state)[n] - before[n]).square().sum().item() for n in before))
    assert report.gradient_norm > 0.05
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_the_schedule_scales_each_groups_own_rate() -> None:
    state = state_of(build(TOY))
    assert train_step(state, [batch(1)], lr_factor=0.5).learning_rates == (0.005,)
    assert train_step(state, [batch(1)], lr_factor=0.25).learning_rates == (0.0025,)


def test_a_batch_without_labels_is_an_error_that_says_so() -> None:
    empty = batch(1)
    empty.labels_BT.fill_(IGNORED)
    with pytest.raises(UserError, match="no token of 1 batches has a label"):
        train_step(state_of(build(TOY)), [empty])


@pytest.mark.parametrize("keys", [TOY, MOE], ids=["dense", "moe"])
def test_a_run_stopped_and_resumed_is_bit_equal(keys: dict[str, Any], tmp_path) -> None:
    whole = state_of(build(keys))
    losses = [train_step(whole, [batch(n)], lr_factor=0.5).losses["total"] for n in range(8)]
    first = state_of(build(keys))
    for n in range(5):
        train_step(first, [batch(n)], lr_factor=0.5)
    save_run(tmp_path, first.step, first.state_dict())
    second = state_of(build(keys), seed=9)
    loaded = load_run(tmp_path)
    assert loaded is not None
    second.load_state_dict(loaded.state)
    resumed = [train_step(second, [batch(n)], lr_factor=0.5).losses["total"] for n in range(second.step, 8)]
    assert resumed == losses[5:]
    assert largest_difference(weights(whole), weights(second)) == 0.0


def test_a_state_of_another_model_is_refused_by_its_first_difference() -> None:
    other = state_of(build(TOY | {"hidden_size": 32}))
    with pytest.raises(UserError, match="of another model.*embed_tokens") as refused:
        state_of(build(TOY)).load_state_dict(other.state_dict())
    assert len(str(refused.value)) < 400
