"""Rows of whole examples: nothing is cut, lost or seen twice, and a run goes on exactly where it stood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.examples import Example
from modelstack.data.mixture import Mixture
from modelstack.errors import UserError
from modelstack.posttrain.row_loader import RowOrder
from modelstack.sft.augment import AugmentConfig, augment
from modelstack.sft.loader import SftLoader
from modelstack.sft.rendering import RenderOptions, RoleWeights, render
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_encoder
from tests.modelstack.tokenizer.trained import text_tokenizer

T = 40
Piece = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""Ids, labels and weights of one example in a row."""


def toy_data(n: int = 60, seed: int = 0, n_variants: int = 1, weight: float | None = None) -> Tokenised:
    """Documents of random tokens, of 3 to 30 places, from two sources; the last third of each is learnt."""
    draw = np.random.default_rng(seed)
    source_of = np.sort(draw.integers(0, 2, n))
    lengths = draw.integers(3, 31, n * n_variants)
    offsets = np.concatenate(([0], np.cumsum(lengths + 1)))
    ids = draw.integers(1, 500, offsets[-1]).astype(np.int32)
    weights = np.zeros(offsets[-1], np.float32)
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        n_learnt = max(1, (end - start) // 3)
        weights[end - n_learnt : end] = draw.integers(1, 4, n_learnt) if weight is None else weight
    return Tokenised(ids, weights, offsets, source_of, ("big", "small"), {"big": 0, "small": 0})


def loader(data: Tokenised, rows: int = 4, rank: int = 0, world: int = 1, **changes: Any) -> SftLoader:
    values: dict[str, Any] = {"row_tokens": T, "window_rows": 8, "group_rows": 4}
    config = RowOrder.model_validate(values | changes)
    return SftLoader(data, config, rows_per_batch=rows, rank=rank, world=world)


def expected(data: Tokenised, document: int) -> Piece:
    ids, weights = data.document(document)
    labels = [int(token) if weight else IGNORED for token, weight in zip(ids[1:], weights[1:], strict=True)]
    return tuple(ids[:-1].tolist()), tuple(labels), tuple(weights[1:].tolist())


def pieces_of(batch: Batch, is_padded: bool = False) -> list[Piece]:
    """Return the examples in a batch, found by their numbers, padding left out."""
    weights_BT = batch.weights_BT
    assert weights_BT is not None
    found: list[Piece] = []
    for b, documents in enumerate(batch.documents_BT.tolist()):
        for number in sorted(set(documents)):
            at = [t for t, each in enumerate(documents) if each == number]
            assert at == [*range(at[0], at[-1] + 1)]
            place = slice(at[0], at[-1] + 1)
            rows = [x[b, place].tolist() for x in (batch.ids_BT, batch.labels_BT, weights_BT)]
            n = len(rows[0])
            while is_padded and rows[1][n - 1] == IGNORED:
                n -= 1
            if any(label != IGNORED for label in rows[1]):
                found.append((tuple(rows[0][:n]), tuple(rows[1][:n]), tuple(rows[2][:n])))
    return found


def same(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    return all(
        x.position == y.position
        and torch.equal(x.ids_BT, y.ids_BT)
        and torch.equal(x.labels_BT, y.labels_BT)
        and torch.equal(x.documents_BT, y.documents_BT)
        and (x.weights_BT is y.weights_BT is None or torch.equal(x.weights_BT, y.weights_BT))  # pyright: ignore
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_row_is_of_whole_examples_and_an_epoch_has_each_once(layout: str) -> None:
    data = toy_data()
    known = {expected(data, n): n for n in range(60)}
    found: list[int] = []
    for batch in islice(loader(data, layout=layout), 40):
        found += [known[piece] for piece in pieces_of(batch, layout == "padded")]
    counts = Counter(found)
    assert len(counts) == 60
    assert len(found) > 120
    # What waits for a window is at most one row's; so no example is an epoch and a window ahead of another.
    assert max(counts.values()) - min(counts.values()) <= 2


def test_packed_rows_are_full_and_padding_has_no_label_no_weight_and_a_number_of_its_own() -> None:
    batches = list(islice(loader(toy_data(), window_rows=32), 20))
    n_padding = 0
    for batch in batches:
        assert batch.ids_BT.shape[0] == 4
        assert batch.ids_BT.shape[1] <= T
        assert (batch.labels_BT[:, -1] != IGNORED).any(), "a batch ends with its longest row"
        assert batch.weights_BT is not None
        assert ((batch.weights_BT > 0) == (batch.labels_BT != IGNORED)).all()
        for row, labels in zip(batch.documents_BT, batch.labels_BT, strict=True):
            is_padding = (row == row[-1]) & (labels[-1] == IGNORED)
            n_padding += int(is_padding.sum()) if labels[-1] == IGNORED else 0
    assert n_padding < 0.05 * len(batches) * 4 * T


def test_padded_rows_are_of_similar_length_and_one_document_each() -> None:
    batches = list(islice(loader(toy_data(200), layout="padded", window_rows=64), 30))
    assert all((batch.documents_BT == 0).all() for batch in batches)
    used = sum(len(piece[0]) for batch in batches for piece in pieces_of(batch, is_padded=True))
    places = sum(batch.n_tokens for batch in batches)
    assert used > 0.93 * places
    assert len({batch.ids_BT.shape[1] for batch in batches}) > 8


def test_rows_of_one_step_are_of_similar_length_on_all_ranks() -> None:
    data = toy_data(200)
    ranks = [loader(data, rows=2, rank=rank, world=2, layout="padded", window_rows=64) for rank in range(2)]
    pairs = [[next(each) for each in ranks] for _ in range(20)]
    assert np.mean([abs(a.ids_BT.shape[1] - b.ids_BT.shape[1]) for a, b in pairs]) < 2


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("shares", [None, {"big": 0.2, "small": 0.8}])
@pytest.mark.parametrize("n_given", [0, 1, 2, 5, 11])
def test_a_resumed_loader_gives_the_same_batches_bit_for_bit(layout: str, shares: Any, n_given: int) -> None:
    data = toy_data(n_variants=2)
    one = loader(data, layout=layout, shares=shares)
    for _ in range(n_given):
        next(one)
    state = json.loads(json.dumps(one.state_dict()))
    expected_batches = list(islice(one, 12))
    two = loader(data, layout=layout, shares=shares)
    next(two)  # it goes back, wherever it stood
    two.load_state_dict(state)
    assert two.state_dict() == state
    assert same(list(islice(two, 12)), expected_batches)
    assert two.state_dict() == one.state_dict() and two.n_tokens == one.n_tokens


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_ranks_share_the_rows_of_one_process_and_a_run_goes_on_at_another_world_size(layout: str) -> None:
    data = toy_data()
    whole = loader(data, rows=4, layout=layout)
    ranks = [loader(data, rows=2, rank=rank, world=2, layout=layout) for rank in range(2)]

    def compare() -> None:
        for _ in range(7):
            parts = [piece for each in ranks for piece in pieces_of(next(each), layout == "padded")]
            assert sorted(parts) == sorted(pieces_of(next(whole), layout == "padded"))

    compare()
    state = ranks[0].state_dict()
    assert state == whole.state_dict() == ranks[1].state_dict()
    for each in (*ranks, whole):
        each.load_state_dict(state)
    compare()


def test_the_order_is_another_in_each_epoch_and_of_each_seed() -> None:
    data = toy_data(30)
    known = {expected(data, n): n for n in range(30)}

    def order(seed: int) -> list[int]:
        batches = islice(loader(data, rows=1, layout="padded", window_rows=1, group_rows=1, seed=seed), 60)
        return [known[piece] for batch in batches for piece in pieces_of(batch, is_padded=True)]

    first = order(0)
    assert sorted(first[:30]) == sorted(first[30:]) == [*range(30)]
    assert first[:30] != first[30:]
    assert first == order(0)
    assert first != order(1)


def test_sources_have_their_shares_of_the_tokens() -> None:
    one = loader(toy_data(200), shares={"big": 0.25, "small": 0.75})
    list(islice(one, 100))
    assert one.mixture.shares()["small"] == pytest.approx(0.75, abs=0.01)
    epochs = one.mixture.epochs()
    assert epochs["small"] > 2 * epochs["big"]


def test_each_epoch_has_the_next_variant_of_every_example() -> None:
    data = toy_data(20, n_variants=3)
    known = {expected(data, n): divmod(n, 20) for n in range(60)}
    batches = islice(loader(data, rows=1, layout="padded", window_rows=1, group_rows=1), 80)
    found = [known[piece] for batch in batches for piece in pieces_of(batch, is_padded=True)]
    for epoch, variant in enumerate([0, 1, 2, 0]):
        assert sorted(found[20 * epoch :][:20]) == [(variant, n) for n in range(20)]


def test_variants_of_a_mixture_follow_each_sources_own_epochs() -> None:
    lengths, source_of = np.ones(9, np.int64), np.array([0, 1, 1])
    mixture = Mixture(lengths, source_of, ("a", "b"), {"a": 0.5, "b": 0.5}, seed=0, n_variants=3)
    drawn = [mixture.draw() for _ in range(12)]
    assert [n for n in drawn if n % 3 == 0] == [0, 3, 6, 0, 3, 6]
    assert sorted(n for n in drawn if n % 3)[::2] == [1, 4, 7]


def test_weights_that_are_all_one_are_left_out() -> None:
    assert next(loader(toy_data(weight=1.0))).weights_BT is None
    assert next(loader(toy_data(weight=2.0))).weights_BT is not None


def test_the_rows_of_an_epoch_are_told() -> None:
    data = toy_data(200)
    assert loader(data, layout="padded").rows_per_epoch == 200
    rows = loader(data).rows_per_epoch
    assert data.lengths.sum() / T <= rows < 1.05 * data.lengths.sum() / T + 1


def test_a_state_of_other_data_or_other_rows_is_refused() -> None:
    state = loader(toy_data()).state_dict()
    with pytest.raises(UserError, match="belongs to other examples"):
        loader(toy_data(seed=1)).load_state_dict(state)
    with pytest.raises(UserError, match="layout is 'padded', the state has 'packed'"):
        loader(toy_data(), layout="padded").load_state_dict(state)
    data = toy_data()
    data.weights[-1] += 1
    with pytest.raises(UserError, match="rendered differently"):
        loader(data).load_state_dict(state)


def test_what_cannot_be_is_refused_with_the_rule() -> None:
    with pytest.raises(UserError, match="rank 2 of 2"):
        loader(toy_data(), rank=2, world=2)
    with pytest.raises(UserError, match="tokenise with that limit"):
        loader(toy_data(), row_tokens=20)
    with pytest.raises(UserError, match="window_rows is 8 and group_rows is 3"):
        loader(toy_data(), layout="padded", group_rows=3)
    with pytest.raises(UserError, match="name each source"):
        loader(toy_data(), shares={"big": 1.0})


def encoder() -> ChatEncoder:
    tokenizer = text_tokenizer()
    return chat_encoder(tokenizer)


def some_examples(n: int, long: int = 0) -> list[Example]:
    """Return examples, of which the first few are long."""
    tool = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]}}
    return [
        Example.model_validate_json(
            json.dumps(
                {
                    "id": f"{n}-{i}",
                    "source": "made",
                    "license": "CC0-1.0",
                    "kind": "call",
                    "tools": [tool],
                    "messages": [{"role": "user", "content": "Lisbon" + " again" * (900 if i < long else i)}],
                    "calls": [{"name": "weather", "arguments": {"city": "Lisbon"}}],
                }
            )
        )
        for i in range(n)
    ]


def test_tokens_behind_the_last_target_are_left_out() -> None:
    (one,) = some_examples(1)
    data = tokenise({"a": [one]}, encoder(), row_tokens=500)
    rendered = render(one, encoder())
    n = len(rendered.ids) - (len(encoder().assistant_suffix_ids) - 1)
    ids, weights = data.document(0)
    assert ids.tolist() == rendered.ids[:n]
    assert weights.tolist() == np.array(rendered.weights[:n], np.float32).tolist()
    assert data.lengths.tolist() == [n - 1]


def test_examples_that_are_too_long_are_dropped_and_counted() -> None:
    data = tokenise({"a": some_examples(5, long=2), "b": some_examples(3)}, encoder(), row_tokens=500)
    assert data.n_dropped == {"a": 2, "b": 0}
    assert data.source_of.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_row_of_exactly_the_longest_example_holds_it() -> None:
    data = tokenise({"a": some_examples(5)}, encoder(), row_tokens=500)
    longest = int(data.lengths.max())
    assert sum(tokenise({"a": some_examples(5)}, encoder(), row_tokens=longest).n_dropped.values()) == 0
    assert sum(tokenise({"a": some_examples(5)}, encoder(), row_tokens=longest - 1).n_dropped.values()) == 1


def test_a_source_of_which_nothing_fits_is_named() -> None:
    with pytest.raises(UserError, match="none of the 2 examples of 'b' fits a row of 500 tokens"):
        tokenise({"a": some_examples(3), "b": some_examples(2, long=2)}, encoder(), row_tokens=500)


def test_variants_are_augmented_by_their_number_and_kept_apart() -> None:
    examples = some_examples(3)
    config = AugmentConfig(mask_names=1.0)
    data = tokenise({"a": examples}, encoder(), row_tokens=500, augmentation=config, seed=7, n_variants=2)
    assert (data.n_examples, data.n_variants, len(data.lengths)) == (3, 2, 6)
    for n in range(6):
        rendered = render(augment(examples[n % 3], config, 7, n // 3), encoder())
        assert data.document(n)[0].tolist() == rendered.ids[: len(data.document(n)[0])]
    assert data.document(0)[0].tolist() != data.document(3)[0].tolist()


def test_the_same_examples_have_the_same_fingerprint_and_other_weights_another() -> None:
    options = RenderOptions(weights=RoleWeights(value=4.0))
    one = tokenise({"a": some_examples(3)}, encoder(), row_tokens=500)
    assert one.fingerprint() == tokenise({"a": some_examples(3)}, encoder(), row_tokens=500).fingerprint()
    other = tokenise({"a": some_examples(3)}, encoder(), row_tokens=500, options=options)
    assert other.fingerprint() != one.fingerprint()
    assert replace(one, sources=("b",)).fingerprint() != one.fingerprint()
