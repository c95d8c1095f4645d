"""The loader: right labels, each token once, and a resume that equals the run without a stop."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch, Loader
from modelstack.data.loader import PackedLoader, PackingConfig, batch_of_rows
from modelstack.data.mixture import Mixture
from modelstack.data.order import Order
from modelstack.data.packing import Kind, Piece, padding_share
from modelstack.data.rows import RowStream
from modelstack.data.shards import Shards
from modelstack.errors import UserError
from tests.modelstack.data.toy_shards import BEGIN, END, toy_documents, toy_shards

KINDS: tuple[Kind, ...] = ("best_fit", "concatenate")
T = 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return toy_shards(tmp_path_factory.mktemp("shards"))


def config(**changes: Any) -> PackingConfig:
    return PackingConfig.model_validate({"row_tokens": T, "window_rows": 16, "seed": 3} | changes)


def hashed(batches: list[Batch]) -> list[str]:
    return [
        hashlib.sha256(
            b"".join(t.numpy().tobytes() for t in (batch.ids_BT, batch.labels_BT, batch.documents_BT))
            + str(batch.position).encode()
        ).hexdigest()
        for batch in batches
    ]


def taken(loader: Loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("weights", [None, {"big": 2, "mid": 1, "small": 1}])
def test_a_resume_at_any_batch_equals_the_run_without_a_stop(
    shards: Shards, kind: Kind, world: int, weights: dict[str, float] | None
) -> None:
    options = config(kind=kind, weights=weights)
    for rank in range(world):
        loader = PackedLoader(shards, options, rows_per_batch=2, rank=rank, world=world)
        states, batches = [], []
        for _ in range(48 // world):
            states.append(through_json(loader.state_dict()))
            batches.append(next(loader))
        expected = hashed(batches)
        assert len(set(expected)) == len(expected)
        for stop in range(0, len(states), 1 if world == 4 else 5):
            resumed: Loader = PackedLoader(shards, options, rows_per_batch=2, rank=rank, world=world)
            resumed.load_state_dict(states[stop])
            left = expected[stop : stop + 3]
            assert hashed(taken(resumed, len(left))) == left


def test_a_loader_goes_back_to_a_state_of_its_own_past(shards: Shards) -> None:
    loader = PackedLoader(shards, config(), rows_per_batch=3)
    taken(loader, 4)
    state = loader.state_dict()
    expected = hashed(taken(loader, 9))
    loader.load_state_dict(state)
    assert hashed(taken(loader, 9)) == expected


def rows_of(shards: Shards, world: int, n_steps: int, rows_per_batch: int, state: Any = None) -> tuple[Any, Any]:
    """Ids of all rows of some steps, in the stream's order, and the state after them."""
    loaders = [
        PackedLoader(shards, config(), rows_per_batch=rows_per_batch, rank=rank, world=world)
        for rank in range(world)
    ]
    if state is not None:
        for loader in loaders:
            loader.load_state_dict(state)
    steps = [torch.cat([next(loader).ids_BT for loader in loaders]) for _ in range(n_steps)]
    states = [loader.state_dict() for loader in loaders]
    assert all(other == states[0] for other in states)
    return torch.cat(steps), through_json(states[0])


def test_another_world_size_goes_on_with_the_same_rows(shards: Shards) -> None:
    expected, _ = rows_of(shards, 1, 60, 1)
    got, state = [], None
    for world, n_steps, rows_per_batch in ((4, 3, 2), (1, 2, 3), (2, 5, 3)):
        rows, state = rows_of(shards, world, n_steps, rows_per_batch, state)
        got.append(rows)
    assert torch.equal(torch.cat(got), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_three_epochs_of_rows_hold_each_token_of_each_document_three_times(shards: Shards, kind: Kind) -> None:
    n, seed = shards.n_documents, 3
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, None, seed)
    stream = RowStream(mixture, shards.lengths, row_tokens=T, window_rows=16, kind=kind, seed=seed)
    placed: list[Piece] = []
    while True:
        row = stream.take()
        window = stream.state_dict()["window"]
        if window["mixture"]["n_drawn"]["all"] >= 3 * n:
            # The row is the first of a window that begins after three epochs.
            break
        placed += row
    placed += [Piece(*numbers) for numbers in window["waiting"]]
    drawn = [Order(n, seed, k // n, "all").document(k % n) for k in range(window["mixture"]["n_drawn"]["all"])]
    assert Counter(drawn[: 3 * n]) == dict.fromkeys(range(n), 3)
    expected = Counter((document, i) for document in drawn for i in range(int(shards.lengths[document])))
    assert Counter((p.document, p.start + i) for p in placed for i in range(p.n_tokens)) == expected


def test_labels_are_the_next_tokens_of_the_same_document(shards: Shards) -> None:
    lengths = shards.lengths
    long, short = int(lengths.argmax()), int(lengths.argmin())
    rows = [
        [Piece(long, 0, T)],
        [Piece(long, T, int(lengths[long]) - T), Piece(short, 0, int(lengths[short]))],
        [Piece(1, 0, 2)],
    ]
    batch = batch_of_rows(rows, shards, T, 40)
    assert batch.position == 40
    for b, row in enumerate(rows):
        ids, labels, numbers = [], [], []
        for number, (document, start, n_tokens) in enumerate(row):
            tokens = shards.tokens(document).tolist()
            ids += tokens[start : start + n_tokens]
            labels += [*tokens[1:], IGNORED][start : start + n_tokens]
            numbers += [number] * n_tokens
        n_padding = T - len(ids)
        assert batch.ids_BT[b].tolist() == ids + [END] * n_padding
        assert batch.labels_BT[b].tolist() == labels + [IGNORED] * n_padding
        assert batch.documents_BT[b].tolist() == numbers + [len(row)] * n_padding
    assert batch.labels_BT[0, -1] == shards.tokens(long)[T]


@pytest.mark.parametrize("kind", KINDS)
def test_no_label_crosses_from_one_document_to_the_next(shards: Shards, kind: Kind) -> None:
    loader = PackedLoader(shards, config(kind=kind), rows_per_batch=8)
    n_begins = 0
    for batch in taken(loader, 20):
        same = batch.documents_BT[:, 1:] == batch.documents_BT[:, :-1]
        labels, following = batch.labels_BT[:, :-1], batch.ids_BT[:, 1:]
        assert (labels[~same] == IGNORED)[batch.ids_BT[:, :-1][~same] == END].all()
        trained = same & (labels != IGNORED)
        assert torch.equal(labels[trained], following[trained])
        assert not (batch.labels_BT == BEGIN).any()
        # A document's last token, and only that or padding, has no label.
        assert torch.equal(batch.labels_BT == IGNORED, batch.ids_BT == END)
        n_begins += int((batch.ids_BT == BEGIN).sum())
    assert n_begins > 200


def test_the_share_of_padding_is_what_the_rows_leave_free(shards: Shards) -> None:
    loader = PackedLoader(shards, config(), rows_per_batch=4)
    taken(loader, 25)
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, None, 3)
    stream = RowStream(mixture, shards.lengths, row_tokens=T, window_rows=16, kind="best_fit", seed=3)
    rows = [stream.take() for _ in range(100)]
    report = loader.report()
    assert report["n_rows"] == 100
    assert report["padding_share"] == pytest.approx(padding_share(rows, T))
    assert 0 < report["padding_share"] < 0.05
    chopped = PackedLoader(shards, config(kind="concatenate"), rows_per_batch=4)
    taken(chopped, 25)
    assert chopped.report()["padding_share"] == 0


def test_skipped_rows_are_the_rows_that_are_not_given(shards: Shards) -> None:
    through = PackedLoader(shards, config(), rows_per_batch=2)
    expected = taken(through, 30)
    loader = PackedLoader(shards, config(), rows_per_batch=2)
    taken(loader, 4)
    loader.skip(40)
    assert hashed(taken(loader, 6)) == hashed(expected[24:])


def test_skipping_reads_no_token(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = PackedLoader(shards, config(), rows_per_batch=2)

    def read(*_: int) -> np.ndarray:
        raise AssertionError("a token was read")

    monkeypatch.setattr(shards, "tokens", read)
    loader.skip(100)
    assert loader.report()["n_rows"] == 100
    with pytest.raises(AssertionError, match="a token was read"):
        next(loader)


def test_shares_of_the_sources_follow_the_weights(shards: Shards) -> None:
    weights = {"big": 0.2, "mid": 0.5, "small": 0.3}
    loader = PackedLoader(shards, config(weights=weights), rows_per_batch=4)
    taken(loader, 50)
    report = loader.report()
    assert report["shares"] == pytest.approx(weights, abs=0.01)
    assert sum(shards.lengths * (shards.source_of == shards.sources.index("small"))) < sum(
        shards.lengths * (shards.source_of == shards.sources.index("big"))
    )
    assert report["epochs"]["small"] > report["epochs"]["big"]


def test_a_source_of_weight_zero_is_never_drawn(shards: Shards) -> None:
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, {"big": 0, "mid": 1, "small": 1}, 0)
    drawn = {shards.sources[shards.source_of[mixture.draw()]] for _ in range(300)}
    assert drawn == {"mid", "small"}


def test_rows_of_a_window_are_not_sorted_by_the_length_of_their_documents(shards: Shards) -> None:
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, None, 0)
    stream = RowStream(mixture, shards.lengths, row_tokens=T, window_rows=64, kind="best_fit", seed=0)
    longest = [max(piece.n_tokens for piece in stream.take()) for _ in range(64)]
    correlation = np.corrcoef(longest, range(64))[0, 1]
    # Packed rows in their own order have -0.9 and less; of 64 shuffled ones 0.4 is passed once in a thousand.
    assert abs(correlation) < 0.4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"big": 1.0}, "name each source"),
        ({"big": 1, "mid": 1, "smal": 1}, "name each source"),
        ({"big": -1, "mid": 1, "small": 1}, "weight -1.0 of 'big'"),
        ({"big": float("nan"), "mid": 1, "small": 1}, "weight nan of 'big'"),
        ({"big": 0, "mid": 0, "small": 0}, "all weights are 0"),
    ],
)
def test_weights_that_are_no_shares_are_refused(shards: Shards, weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PackedLoader(shards, config(weights=weights), rows_per_batch=1)


def test_a_state_of_other_data_or_another_packing_is_refused(shards: Shards, tmp_path: Path) -> None:
    state = PackedLoader(shards, config(), rows_per_batch=1).state_dict()
    others = toy_shards(tmp_path, toy_documents(50, seed=1))
    with pytest.raises(UserError, match="other token shards"):
        PackedLoader(others, config(), rows_per_batch=1).load_state_dict(state)
    with pytest.raises(UserError, match="row_tokens is 32, the state has 64"):
        PackedLoader(shards, config(row_tokens=32), rows_per_batch=1).load_state_dict(state)
    with pytest.raises(UserError, match="seed is 4, the state has 3"):
        PackedLoader(shards, config(seed=4), rows_per_batch=1).load_state_dict(state)


def test_a_rank_outside_the_world_and_a_skip_backwards_are_refused(shards: Shards) -> None:
    with pytest.raises(UserError, match="rank 2 of 2"):
        PackedLoader(shards, config(), rows_per_batch=1, rank=2, world=2)
    with pytest.raises(UserError, match="skip of -1 rows"):
        PackedLoader(shards, config(), rows_per_batch=1).skip(-1)
