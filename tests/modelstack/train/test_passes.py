"""One device's forward and backward passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED, next_token_labels
from modelstack.data.batches import Batch
from modelstack.train.passes import LocalPasses, add_gradients
from tests.modelstack.architecture.families import FAMILIES
from tests.modelstack.architecture.parity import ours, random_ids, reference

PLACEMENTS = ("qwen2", "olmo3", "gemma3_text")
"""Pre-norm, post-norm and sandwich."""


def _batch(every: int, weights: bool = False) -> Batch:
    """Return two rows of two documents each, with a label at every n-th place."""
    ids = random_ids(batch=2, n_tokens=24)
    documents = (torch.arange(24) >= 10).long().expand_as(ids)
    labels = next_token_labels(ids, documents)
    labels[:, torch.arange(24) % every != 0] = IGNORED
    counts = 0.5 + torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) if weights else None
    return replace(Batch(ids, labels, documents, position=0), weights_BT=counts)


def _gradients(model: CausalLM, batch: Batch, **keys: Any) -> tuple[dict[str, Tensor], float]:
    model.zero_grad(set_to_none=True)
    losses = add_gradients(model, None, batch, 7.0, **keys)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found, float(sum(losses.values()))


@pytest.mark.parametrize("family", PLACEMENTS)
@pytest.mark.parametrize("weights", [False, True])
def test_leaving_out_places_without_a_label_changes_neither_loss_nor_gradients(family: str, weights: bool) -> None:
    model = ours(reference(family, **FAMILIES[family])).train()
    batch = _batch(every=4, weights=weights)
    wanted, loss = _gradients(model, batch)
    found, same_loss = _gradients(model, batch, choose_places=True)
    assert same_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def _tokens_of_last_feed_forward(model: CausalLM, batch: Batch) -> int:
    seen: list[int] = []
    last: Any = model.model.layers[-1]
    hook = last.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][..., 0].numel()))
    LocalPasses(model).backward([batch], 1.0)
    hook.remove()
    (n_tokens,) = seen
    return n_tokens


def test_the_last_feed_forward_sees_few_labelled_tokens_alone_and_otherwise_all() -> None:
    model = ours(reference("qwen2", **FAMILIES["qwen2"])).train()
    few, many = _batch(every=4), _batch(every=1)
    assert _tokens_of_last_feed_forward(model, few) == int((few.labels_BT != IGNORED).sum())
    assert _tokens_of_last_feed_forward(model, many) == many.n_tokens


def test_a_model_whose_losses_look_at_all_tokens_leaves_out_none() -> None:
    model = ours(reference("qwen3_moe", **FAMILIES["qwen3_moe"])).train()
    assert not model.can_choose_places
    batch = _batch(every=4)
    assert _tokens_of_last_feed_forward(model, batch) == batch.n_tokens
