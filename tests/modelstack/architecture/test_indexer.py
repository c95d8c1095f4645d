"""The lightning indexer: its choice, the order among equals, and the loss that trains it."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from parity import difference, random_ids
from torch import Tensor
from toy_v4 import toy_config, toy_model

from modelstack.architecture.attention import indexer as indexer_file
from modelstack.architecture.attention import indexer_loss as loss_file
from modelstack.architecture.attention.compressed import SparseCompressor, set_index_stage
from modelstack.architecture.attention.indexer import latest_top_k
from modelstack.architecture.attention.indexer_loss import divergence, indexer_loss
from modelstack.architecture.attention.shared_kv import SharedKVAttention
from modelstack.architecture.attention.window_and_entries import share_of_entries
from modelstack.architecture.context import ForwardContext, IndexDivergence
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import next_token_labels, total_loss


def test_the_best_scores_are_chosen_and_the_latest_of_equals() -> None:
    scores = torch.tensor([[0.0, 2.0, -0.0, 0.0, -1.0, 0.0], [-3.0, -1.0, -2.0, -1.0, float("-inf"), -5.0]])
    assert latest_top_k(scores, 3).tolist() == [[1, 5, 3], [3, 1, 2]]


def test_the_order_of_random_scores_is_that_of_topk() -> None:
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(-20, 20)
    assert torch.equal(latest_top_k(scores, 17), scores.topk(17).indices)


def test_index_scores_of_few_heads_are_equal_so_the_order_among_equals_matters() -> None:
    scores = index_scores(captured(toy_model(toy_config((4,))))[0])
    assert (scores == 0).float().mean() > 0.1


def test_the_choice_does_not_depend_on_how_many_tokens_go_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = toy_model(toy_config((4, 4))), random_ids(n_tokens=40, vocab_size=64)
    with torch.no_grad():
        at_once = model(ids).logits_BTV
        monkeypatch.setattr(indexer_file, "FLOATS_AT_ONCE", 1)
        assert difference(model(ids).logits_BTV, at_once) < 1e-6


@dataclass
class IndexedLayer:
    """A layer with an indexer, and what it was given in a forward pass."""

    attention: SharedKVAttention
    x_BTD: Tensor
    context: ForwardContext


@torch.no_grad()
def index_scores(layer: IndexedLayer) -> Tensor:
    compressor = layer.attention.compressor
    assert isinstance(compressor, SparseCompressor)
    latent, _, _ = layer.attention.queries_and_rows(layer.x_BTD, layer.context)
    keys = compressor.indexer.entries(layer.x_BTD, layer.context)
    q = compressor.indexer.queries(latent, layer.context)
    return compressor.indexer.scorer(q, keys, layer.x_BTD)


def captured(model: CausalLM, ids: Tensor | None = None) -> list[IndexedLayer]:
    found: list[IndexedLayer] = []

    def keep(module: Any, inputs: Any) -> None:
        found.append(IndexedLayer(module, inputs[0], inputs[1]))

    attentions: list[Any] = [layer.self_attn for layer in model.model.layers]
    hooks = [
        attention.register_forward_pre_hook(keep)
        for attention in attentions
        if isinstance(attention.compressor, SparseCompressor)
    ]
    with torch.no_grad():
        model(random_ids(n_tokens=40, vocab_size=64) if ids is None else ids)
    for hook in hooks:
        hook.remove()
    return found


def divergences(
    model: CausalLM, ids: Tensor | None = None, documents: Tensor | None = None
) -> dict[int, IndexDivergence]:
    ids = random_ids(n_tokens=40, vocab_size=64) if ids is None else ids
    return model(ids, documents_BT=documents, with_logits=False).index_divergence


def loss_of(model: CausalLM, ids: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
    found = divergences(model, ids, documents)
    return indexer_loss(found, torch.ones_like(next(iter(found.values())).sees_any_BT))


def test_layers_with_an_indexer_leave_divergences_where_there_are_gradients_and_no_cache() -> None:
    model, ids = toy_model(toy_config()), random_ids(n_tokens=8, vocab_size=64)
    assert list(divergences(model)) == [1, 3]
    assert not model(ids, cache=model.new_cache()).index_divergence
    with torch.no_grad():
        assert not model(ids).index_divergence
    assert not divergences(toy_model(toy_config().with_(indexer_loss_coef=0.0)))


@pytest.mark.parametrize("n_heads", [1, 1000])
def test_the_loss_and_its_gradients_do_not_depend_on_how_many_tokens_go_through_at_once(
    monkeypatch: pytest.MonkeyPatch, n_heads: int
) -> None:
    ends = []
    for at_once in (2**26, 300):
        monkeypatch.setattr(loss_file, "FLOATS_AT_ONCE", at_once)
        model = toy_model(toy_config((4,)))
        captured(model)[0].attention.compressor.n_heads = n_heads  # pyright: ignore
        loss_of(model).backward()
        ends.append([p.grad for name, p in model.named_parameters() if ".indexer." in name])
    for found, wanted in zip(*ends, strict=True):
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-4)


def test_a_frozen_indexer_leaves_nothing() -> None:
    model = toy_model(toy_config())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".indexer." not in name)
    assert not divergences(model)


def test_the_models_loss_has_the_indexers_loss_with_its_coefficient_over_tokens_that_count() -> None:
    model, ids = toy_model(toy_config().with_(indexer_loss_coef=0.25)), random_ids(n_tokens=40, vocab_size=64)
    counted = torch.arange(40).expand_as(ids) < 30
    parts = total_loss(model, model(ids), next_token_labels(ids), counted_BT=counted).parts
    means = [
        one.divergence_BT[one.sees_any_BT & counted].mean().item() for one in divergences(model, ids).values()
    ]
    assert parts["indexer_loss"].item() == pytest.approx(0.25 * sum(means), rel=1e-5)


def test_in_a_dense_stage_every_entry_is_attended_to_and_the_indexer_is_not_trained() -> None:
    sparse, dense = toy_model(toy_config((4, 4), index_topk=2)), toy_model(toy_config((4, 4), index_topk=64))
    ids = random_ids(n_tokens=40, vocab_size=64)
    set_index_stage(sparse, "dense")
    assert torch.equal(sparse(ids).logits_BTV, dense(ids).logits_BTV)
    assert not divergences(sparse)
    set_index_stage(sparse, "warm_up")
    assert torch.equal(loss_of(sparse, ids), loss_of(dense, ids))


@pytest.mark.parametrize("index_topk", [3, 64])
def test_the_loss_reaches_the_indexers_parameters_and_no_others(index_topk: int) -> None:
    model = toy_model(toy_config(index_topk=index_topk))
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        if ".indexer." in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_the_language_modelling_loss_gives_the_indexer_no_gradient() -> None:
    model = toy_model(toy_config())
    model(random_ids(n_tokens=40, vocab_size=64)).logits_BTV.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (".indexer." in name), name


def test_divergence_is_torchs_over_what_is_seen_and_zero_where_scores_match() -> None:
    torch.manual_seed(0)
    scores, target, seen = torch.randn(2, 5, 7), torch.rand(2, 5, 7), torch.rand(2, 5, 7) < 0.6
    seen[0, 0] = False
    expected = []
    for s, t, m in zip(scores.flatten(0, 1), target.flatten(0, 1), seen.flatten(0, 1), strict=True):
        if m.any():
            p = t[m] / t[m].sum()
            expected.append((p * (p.log() - s[m].log_softmax(-1))).sum())
    found = divergence(scores, target, seen)
    assert difference(found[seen.any(-1)], torch.stack(expected)) < 1e-6
    assert found[0, 0] == 0
    assert divergence(target.log(), target, torch.ones_like(seen)).abs().max() < 1e-6


def test_tokens_that_see_no_entry_give_no_gradient_that_is_not_a_number() -> None:
    scores = torch.randn(1, 3, 4, requires_grad=True)
    seen = torch.tensor([[[False] * 4, [True] + [False] * 3, [True] * 4]])
    divergence(scores, torch.zeros(1, 3, 4), seen).sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_sequences_shorter_than_an_entry_have_loss_zero() -> None:
    loss = loss_of(toy_model(toy_config((4,))), random_ids(n_tokens=3, vocab_size=64))
    loss.backward()
    assert loss == 0


def test_gathered_entries_give_the_loss_and_the_logits_of_masked_ones() -> None:
    model, ids = toy_model(toy_config((4,))), random_ids(n_tokens=40, vocab_size=64)
    compressor = captured(model, ids)[0].attention.compressor
    assert isinstance(compressor, SparseCompressor)
    losses, logits = [], []
    for n_heads in (1, 1000):  # with more heads, logits over all entries become the larger of the two
        compressor.n_heads = n_heads
        layer = captured(model, ids)[0]
        latent, _, _ = layer.attention.queries_and_rows(layer.x_BTD, layer.context)
        assert (compressor(layer.x_BTD, latent, layer.context).chosen_BTk is None) == (n_heads == 1)
        losses.append(loss_of(model, ids))
        with torch.no_grad():
            logits.append(model(ids).logits_BTV)
    assert losses[0] > 0.01
    assert difference(*losses) < 1e-6
    assert difference(*logits) < 5e-6


def train_indexers(model: CausalLM, ids: Tensor) -> list[float]:
    indexers = [p for name, p in model.named_parameters() if ".indexer." in name]
    optimizer = torch.optim.Adam(indexers, lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def share_found(layer: IndexedLayer, k: int) -> float:
    """Return the share of what attention gives to all entries that k entries of the indexer's choice get."""
    attention, x, context = layer.attention, layer.x_BTD, layer.context
    latent, q, kv = attention.queries_and_rows(x, context)
    assert attention.compressor is not None
    entries = attention.compressor(x, latent, context)
    share = share_of_entries(q, kv, entries, attention.sinks, scale=attention.scale, window=attention.window)
    best = latest_top_k(index_scores(layer).masked_fill(~entries.seen, float("-inf")), k)
    return (share.gather(-1, best).sum() / share.sum()).item()


def test_a_warm_up_lets_the_indexer_find_more_of_the_attention() -> None:
    model = toy_model(toy_config((4, 4), index_topk=64))
    ids = random_ids(n_tokens=64, vocab_size=64)
    before = [share_found(layer, 4) for layer in captured(model, ids)]
    losses = train_indexers(model, ids)
    after = [share_found(layer, 4) for layer in captured(model, ids)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(b > a + 0.03 for a, b in zip(before, after, strict=True)), (before, after)


def test_sparse_training_lowers_the_loss_over_the_chosen_entries() -> None:
    model = toy_model(toy_config((4, 4), index_topk=6))
    losses = train_indexers(model, random_ids(n_tokens=64, vocab_size=64))
    assert losses[-1] < 0.5 * losses[0]


def test_documents_do_not_enter_each_others_loss() -> None:
    model = toy_model(toy_config((4,)))
    ids = random_ids(batch=1, n_tokens=40, vocab_size=64)
    documents = torch.arange(40).ge(20).long()[None]
    packed = loss_of(model, ids, documents)
    apart = [loss_of(model, part) for part in (ids[:, :20], ids[:, 20:])]
    # Each document has 17 tokens that see an entry, so the mean of all is the mean of both.
    assert difference(packed, (apart[0] + apart[1]) / 2) < 1e-6
