"""The lightning indexer: its choice, the order among equals, and the loss that trains it."""

import pytest
import torch
from parity import difference, random_ids
from torch import Tensor
from toy_v4 import toy_config, toy_model

from modelstack.architecture.attention import indexer as indexer_file
from modelstack.architecture.attention.compressed import SparseCompressor
from modelstack.architecture.attention.indexer import latest_top_k
from modelstack.architecture.attention.indexer_loss import IndexedLayer, divergence, indexed_layers, indexer_loss
from modelstack.architecture.attention.window_and_entries import share_of_entries
from modelstack.architecture.decoder import CausalLM


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


@torch.no_grad()
def index_scores(layer: IndexedLayer) -> Tensor:
    compressor = layer.attention.compressor
    assert isinstance(compressor, SparseCompressor)
    latent, _, _ = layer.attention.queries_and_rows(layer.x_BTD, layer.context)
    keys = compressor.indexer.entries(layer.x_BTD, layer.context)
    return compressor.indexer.scores(layer.x_BTD, latent, keys, layer.context)


def captured(model: CausalLM, ids: Tensor | None = None, documents: Tensor | None = None) -> list[IndexedLayer]:
    with indexed_layers(model) as layers, torch.no_grad():
        model(random_ids(n_tokens=40, vocab_size=64) if ids is None else ids, documents_BT=documents)
    return layers


def test_layers_with_an_indexer_are_found_and_no_hook_stays() -> None:
    model = toy_model(toy_config())
    layers = captured(model)
    assert [layer.attention for layer in layers] == [model.model.layers[i].self_attn for i in (1, 3)]
    model(random_ids(n_tokens=8, vocab_size=64))
    assert len(layers) == 2


@pytest.mark.parametrize("index_topk", [3, 64])
def test_the_loss_reaches_the_indexers_parameters_and_no_others(index_topk: int) -> None:
    model = toy_model(toy_config(index_topk=index_topk))
    sum(indexer_loss(layer) for layer in captured(model)).backward()  # pyright: ignore
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
    assert difference(divergence(scores, target, seen), torch.stack(expected).mean()) < 1e-6
    everything = torch.ones_like(seen)
    assert divergence(target.log(), target, everything).abs() < 1e-6
    assert divergence(scores, target, torch.zeros_like(seen)) == 0


def test_tokens_that_see_no_entry_give_no_gradient_that_is_not_a_number() -> None:
    scores = torch.randn(1, 3, 4, requires_grad=True)
    seen = torch.tensor([[[False] * 4, [True] + [False] * 3, [True] * 4]])
    divergence(scores, torch.zeros(1, 3, 4), seen).backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_sequences_shorter_than_an_entry_have_loss_zero() -> None:
    loss = indexer_loss(captured(toy_model(toy_config((4,))), random_ids(n_tokens=3, vocab_size=64))[0])
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
        losses.append(indexer_loss(layer))
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
        loss = torch.stack([indexer_loss(layer) for layer in captured(model, ids)]).mean()
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
    packed = indexer_loss(captured(model, ids, documents)[0])
    apart = [indexer_loss(captured(model, part)[0]) for part in (ids[:, :20], ids[:, 20:])]
    # Each document has 17 tokens that see an entry, so the mean of all is the mean of both.
    assert difference(packed, (apart[0] + apart[1]) / 2) < 1e-6
