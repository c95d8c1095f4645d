"""A training step trains DeepSeek-V4's lightning indexer by its own loss, which changes nothing in the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels
from modelstack.data.batches import Batch
from modelstack.train.step import StepReport, TrainState, local_state, train_step
from tests.modelstack.train.toys import family_config, values

LR = 0.5
MAX_NORM = 0.1
"""Below the model's gradient norm: clipping has to leave the model's step as it is, too."""


def _state(**keys: object) -> TrainState:
    model = initialise(CausalLM(family_config("deepseek_v4").with_(**keys)), 0)
    return local_state(model.train(), torch.optim.SGD(model.parameters(), lr=LR))


def _batches(n: int = 2) -> list[Batch]:
    made = []
    for number in range(n):
        ids = torch.randint(0, 128, (2, 32), generator=torch.Generator().manual_seed(number))
        documents = (torch.arange(32) >= 11).long().expand_as(ids)
        made.append(Batch(ids, next_token_labels(ids, documents), documents, position=2 * number))
    return made


def _moved(state: TrainState, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in values(state.model).items() if not torch.equal(value, before[name])}


def _step(state: TrainState, **keys: object) -> tuple[StepReport, dict[str, Tensor], dict[str, Tensor]]:
    before = values(state.model)
    report = train_step(state, _batches(), max_norm=MAX_NORM, **keys)  # pyright: ignore
    return report, before, values(state.model)


def _indexer_gradients(state: TrainState) -> dict[str, Tensor]:
    """Return what the divergences alone give, without `total_loss` and without a training step."""
    model = state.model
    assert isinstance(model, CausalLM)
    batches = _batches()
    n_labels = sum(int((batch.labels_BT >= 0).sum()) for batch in batches)
    for batch in batches:
        share = int((batch.labels_BT >= 0).sum()) / n_labels
        found = model(batch.ids_BT, documents_BT=batch.documents_BT, with_logits=False).index_divergence
        losses = [one.divergence_BT[one.sees_any_BT].mean() for one in found.values()]
        (share * torch.stack(losses).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def test_a_step_moves_the_indexers_against_the_gradient_of_their_loss() -> None:
    state = _state()
    wanted = _indexer_gradients(state)
    assert wanted and all(".indexer." in name for name in wanted)
    norm = torch.stack([gradient.square().sum() for gradient in wanted.values()]).sum().sqrt().item()
    report, before, after = _step(state)
    assert report.losses["indexer_loss"] > 0
    assert report.losses["total"] == pytest.approx(report.losses["cross_entropy"] + report.losses["indexer_loss"])
    for name, gradient in wanted.items():
        step = -LR * min(1.0, MAX_NORM / norm) * gradient
        torch.testing.assert_close(after[name] - before[name], step, atol=1e-6, rtol=1e-3)


def test_a_warm_up_lowers_the_indexers_loss() -> None:
    model = initialise(CausalLM(family_config("deepseek_v4")), 0)
    state = local_state(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    losses = [train_step(state, _batches(), index_stage="warm_up").losses["indexer_loss"] for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_indexers_loss_changes_nothing_in_the_rest_of_the_model_and_not_its_gradient_norm() -> None:
    (with_loss, before, after), (without, _, plain) = _step(_state()), _step(_state(indexer_loss_coef=0.0))
    assert without.losses.keys() == {"cross_entropy", "total"}
    assert with_loss.gradient_norm == without.gradient_norm > MAX_NORM
    for name, value in plain.items():
        if ".indexer." in name:
            assert torch.equal(value, before[name]) and not torch.equal(after[name], before[name]), name
        else:
            assert torch.equal(value, after[name]), name


def test_in_a_warm_up_only_the_indexers_move_and_no_balancing_bias() -> None:
    state = _state()
    biases = {name: b.clone() for name, b in state.model.named_buffers() if name.endswith("correction_bias")}
    report, before, _ = _step(state, index_stage="warm_up")
    moved = _moved(state, before)
    assert moved == {name for name in before if ".indexer." in name}
    assert biases and all(torch.equal(b, state.model.get_buffer(name)) for name, b in biases.items())
    assert {"cross_entropy", "indexer_loss"} <= report.losses.keys()


def test_in_the_dense_stage_the_indexers_stay_and_the_model_moves() -> None:
    state = _state()
    report, before, _ = _step(state, index_stage="dense")
    assert "indexer_loss" not in report.losses
    moved = _moved(state, before)
    assert "lm_head.weight" in moved and not any(".indexer." in name for name in moved)


def test_a_guard_judges_the_loss_without_the_indexers_part_and_sees_one_that_is_not_finite() -> None:
    judged: list[tuple[float, float]] = []

    def judge(loss: float, norm: float) -> str:
        judged.append((loss, norm))
        return ""

    state = _state()
    report, _, _ = _step(state, judge=judge)
    assert judged[0] == (pytest.approx(report.losses["cross_entropy"]), report.gradient_norm)
    for name, parameter in state.model.named_parameters():
        if name.endswith("indexer.q_b_proj.weight"):
            parameter.data.fill_(float("nan"))
    _step(state, judge=judge)
    assert not torch.tensor(judged[1]).isfinite().any()
