"""Attention over a window and compressed entries: caches, packed documents, and the softmax in all its shapes."""

from typing import Any

import pytest
import torch
from parity import assert_cache_agrees, difference, random_ids
from torch.utils._python_dispatch import TorchDispatchMode
from toy_v4 import toy_config, toy_model

from modelstack.architecture.attention import indexer, window_and_entries
from modelstack.architecture.attention.window_and_entries import Entries, window_and_entries_attention
from modelstack.architecture.decoder import make_context
from modelstack.errors import UserError

RATIOS = {"window": (0, 0), "sparse": (4, 4), "heavy": (16, 16), "all": (0, 4, 16, 4)}


@pytest.mark.parametrize("kind", RATIOS)
@pytest.mark.parametrize("chunks", [(1,), (4, 16, 5), (33, 2)])
def test_chunks_of_any_size_equal_one_pass_even_with_equal_index_scores(
    kind: str, chunks: tuple[int, ...]
) -> None:
    model = toy_model(toy_config(RATIOS[kind]))
    assert_cache_agrees(model, random_ids(n_tokens=37, vocab_size=64), chunks=chunks)


@pytest.mark.parametrize("n_tokens", [1, 3, 4, 7, 8, 18, 35])
def test_bytes_in_use_are_those_of_rows_entries_and_unfinished_windows(n_tokens: int) -> None:
    config = toy_config()
    model = toy_model(config)
    cache = model.new_cache()
    with torch.no_grad():
        for token in random_ids(n_tokens=n_tokens, vocab_size=64).split(1, dim=1):
            model(token, cache=cache)
    d, d_index, B, fp32 = config.head_dim, config.index_head_dim or 0, 2, 4
    window = min(n_tokens, 8 - 1) * d

    def sparse(size: int) -> int:
        unfinished, next_window = n_tokens % 4 * 2 * (2 * size), 2 * 4 * size if n_tokens >= 4 else 0
        return n_tokens // 4 * size + unfinished + next_window

    heavy = n_tokens // 16 * d + n_tokens % 16 * 2 * d
    numbers = 4 * window + 2 * (sparse(d) + sparse(d_index)) + heavy
    assert cache.bytes_in_use() == B * fp32 * numbers


@pytest.mark.parametrize("kind", RATIOS)
def test_packed_documents_on_the_grid_equal_documents_run_apart(kind: str) -> None:
    model = toy_model(toy_config(RATIOS[kind]))
    ids = random_ids(n_tokens=48 + 21, vocab_size=64)
    documents = torch.arange(69).ge(48).long().expand(2, -1)  # 48 is a multiple of both rates
    with torch.no_grad():
        packed = model(ids, documents_BT=documents).logits_BTV
        apart = torch.cat((model(ids[:, :48]).logits_BTV, model(ids[:, 48:]).logits_BTV), dim=1)
    assert difference(packed, apart) < 5e-6


@pytest.mark.parametrize("lengths", [(16, 32), (17, 31), (30, 18), (18, 3, 27)])
def test_no_gradient_crosses_a_border_wherever_it_lies(lengths: tuple[int, ...]) -> None:
    """The third document has the first one's number: they see each other, and nothing of what lies between."""
    model = toy_model(toy_config())
    ids = random_ids(n_tokens=48, vocab_size=64)
    number = torch.cat([torch.full((n,), document % 2) for document, n in enumerate(lengths)])
    embedded = model.model.embed(ids).detach().requires_grad_()
    model.model.embed = lambda _: embedded  # pyright: ignore
    hidden, _ = model.model(make_context(ids, documents_BT=number.expand(2, -1)))
    for own in (number == 0, number == 1):
        (gradient,) = torch.autograd.grad(hidden[:, own].square().sum(), embedded, retain_graph=True)
        assert gradient[:, own].abs().max() > 0
        assert gradient[:, ~own].abs().max() == 0


def test_an_entry_that_straddles_a_border_changes_nothing_for_anybody() -> None:
    model = toy_model(toy_config((16, 16)))
    ids = random_ids(n_tokens=48, vocab_size=64)
    documents = torch.arange(48).ge(24).long().expand(2, -1)  # the second entry holds tokens 16 to 31
    changed = ids.clone()
    changed[:, 16:24] = (changed[:, 16:24] + 1) % 64
    with torch.no_grad():
        before, after = (model(x, documents_BT=documents).logits_BTV for x in (ids, changed))
    assert difference(before[:, 24:], after[:, 24:]) == 0
    assert difference(before[:, 16:24], after[:, 16:24]) > 0


def test_positions_restart_within_compressed_entries() -> None:
    model = toy_model(toy_config((4, 16)))
    ids = random_ids(n_tokens=64, vocab_size=64)
    documents = torch.arange(64).ge(32).long().expand(2, -1)
    with torch.no_grad():
        shifted = model(ids[:, 32:], positions_BT=torch.arange(32, 64)[None]).logits_BTV
        packed = model(ids, documents_BT=documents).logits_BTV[:, 32:]
        alone = model(ids[:, 32:]).logits_BTV
    # All rotations are relative, so a shift of everything together changes nothing either.
    assert difference(packed, alone) < 5e-6
    assert difference(shifted, alone) < 2e-5


def naive(q, kv, entries: Entries, sinks, scale, window, n_past):
    """Return the same attention by one dense masked softmax."""
    B, T, H, _ = q.shape
    S, N = kv.shape[1], entries.rows_BNd.shape[1]
    place = torch.arange(T)[:, None] + n_past - torch.arange(S)
    in_window = ((place >= 0) & (place < window)).expand(B, T, S)
    seen = entries.seen.expand(B, T, -1)
    if entries.chosen_BTk is not None:
        seen = torch.zeros(B, T, N, dtype=torch.bool).scatter(-1, entries.chosen_BTk, seen)
    rows = torch.cat((kv, entries.rows_BNd), dim=1)
    logits = torch.einsum("bthd,bsd->bths", q, rows) * scale
    logits = logits.masked_fill(~torch.cat((in_window, seen), -1)[:, :, None], float("-inf"))
    weights = torch.cat((logits, sinks[:, None].expand(B, T, H, 1)), -1).softmax(-1)[..., :-1]
    return torch.einsum("bths,bsd->bthd", weights, rows)


@pytest.mark.parametrize(
    ("T", "n_past", "window"), [(1, 0, 4), (1, 3, 4), (5, 3, 4), (13, 0, 4), (12, 2, 4), (3, 0, 8)]
)
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("floats_at_once", [2**27, 1])
def test_bands_blocks_and_gathered_entries_equal_one_dense_softmax(
    T: int, n_past: int, window: int, chosen: bool, floats_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_and_entries, "FLOATS_AT_ONCE", floats_at_once)
    torch.manual_seed(T)
    B, H, d, N, k = 2, 3, 8, 6, 2
    q, kv, rows = torch.randn(B, T, H, d), torch.randn(B, n_past + T, d), torch.randn(B, N, d)
    sinks = torch.randn(H)
    if chosen:
        indices = torch.stack([torch.randperm(N)[:k] for _ in range(B * T)]).view(B, T, k)
        entries = Entries(rows, torch.rand(B, T, k) < 0.7, indices)
    else:
        entries = Entries(rows, torch.rand(1, T, N) < 0.5)
    found = window_and_entries_attention(q, kv, entries, sinks, scale=0.3, window=window)
    assert difference(found, naive(q, kv, entries, sinks, 0.3, window, n_past)) < 1e-6


def test_a_gathered_entry_gets_the_gradient_of_all_its_readers() -> None:
    torch.manual_seed(0)
    B, T, H, d, N, k = 2, 6, 2, 4, 5, 2
    q, kv, sinks = torch.randn(B, T, H, d), torch.randn(B, T, d), torch.randn(H)
    rows = torch.randn(B, N, d, requires_grad=True)
    chosen = torch.stack([torch.randperm(N)[:k] for _ in range(B * T)]).view(B, T, k)
    seen = torch.zeros(B, T, N, dtype=torch.bool).scatter(-1, chosen, True)
    gradients = []
    for entries in (Entries(rows, torch.ones(B, T, k, dtype=torch.bool), chosen), Entries(rows, seen)):
        y = window_and_entries_attention(q, kv, entries, sinks, scale=0.5, window=3)
        gradients += torch.autograd.grad(y.square().sum(), rows)
    assert difference(gradients[0], gradients[1]) < 1e-5


class LargestTensor(TorchDispatchMode):
    """Watches the size of everything that is made."""

    n_numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, torch.Tensor):
                # What a view or an expanded tensor really holds is its storage.
                self.n_numbers = max(self.n_numbers, made.untyped_storage().nbytes() // made.element_size())
        return out


@torch.no_grad()
def test_the_largest_tensor_of_window_and_sparse_layers_grows_with_the_length_and_not_its_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_and_entries, "FLOATS_AT_ONCE", 2**14)
    monkeypatch.setattr(indexer, "FLOATS_AT_ONCE", 2**14)
    model = toy_model(toy_config((0, 4)))
    largest = []
    for n_tokens in (512, 1024):
        with LargestTensor() as watch:
            model(random_ids(batch=1, n_tokens=n_tokens, vocab_size=64))
        largest.append(watch.n_numbers)
    assert largest[1] <= 2.1 * largest[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"o_groups": 3}, "o_groups 3"),
        ({"qk_rope_head_dim": 12}, "qk_rope_head_dim 12"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4"),
        ({"compress_rates": {"compressed_sparse_attention": 4}}, "heavily_compressed_attention"),
        ({"position_embedding": "none"}, "rope_parameters"),
    ],
)
def test_a_config_that_cannot_be_names_what_does_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy_config().with_(**changes)
