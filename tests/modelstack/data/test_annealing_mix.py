"""A mix of its own at the end: it begins where it should, sources go on where they stood, a resume is exact."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from typing import Any

import pytest

from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.mixture import Mixture
from modelstack.data.packing import Kind, Row
from modelstack.data.rows import RowStream
from modelstack.data.shards import Shards
from modelstack.errors import UserError
from tests.modelstack.data.toy_shards import toy_shards

T, FROM = 64, 40
STABLE = {"big": 0.7, "mid": 0.3, "small": 0.0}
ANNEAL = {"big": 0.0, "mid": 0.4, "small": 0.6}
KINDS: tuple[Kind, ...] = ("best_fit", "concatenate")
SPILL = 3
"""Rows around the change that may hold pieces packed with its other side, and how far it may be off."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return toy_shards(tmp_path_factory.mktemp("shards"))


def config(anneal: Any = "standard", **changes: Any) -> PackingConfig:
    anneal = {"weights": ANNEAL, "from_row": FROM} if anneal == "standard" else anneal
    values = {"row_tokens": T, "window_rows": 16, "seed": 3, "weights": STABLE, "anneal": anneal}
    return PackingConfig.model_validate(values | changes)


def hashes(loader: PackedLoader, n: int) -> list[str]:
    return [hashlib.sha256(b.ids_BT.numpy().tobytes()).hexdigest() for b in itertools.islice(loader, n)]


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


def stream(shards: Shards, kind: Kind = "best_fit", anneal: dict[str, float] = ANNEAL) -> RowStream:
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, STABLE, 3, anneal_weights=anneal)
    return RowStream(
        mixture, shards.lengths, row_tokens=T, window_rows=16, kind=kind, seed=3, anneal_from_row=FROM
    )


def tokens_by_source(rows: list[Row], shards: Shards) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in itertools.chain.from_iterable(rows):
        counts[shards.sources[shards.source_of[piece.document]]] += piece.n_tokens
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_the_mix_changes_at_its_row_though_no_window_ends_there(shards: Shards, kind: Kind) -> None:
    rows = stream(shards, kind)
    before = [rows.take() for _ in range(FROM)]
    around = [rows.take() for _ in range(2 * SPILL)]
    behind = [rows.take() for _ in range(300)]
    assert FROM % 16
    assert tokens_by_source(before, shards)["small"] == 0
    assert tokens_by_source(around, shards)["small"] > 0
    for part, wanted in ((before, STABLE), (behind, ANNEAL)):
        found = tokens_by_source(part, shards)
        shares = {name: found[name] / found.total() for name in wanted}
        assert shares == pytest.approx(wanted, abs=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_of_the_old_mix_only_what_was_packed_already_comes_behind_the_change(shards: Shards, kind: Kind) -> None:
    rows = stream(shards, kind)
    for _ in range(FROM + SPILL):
        rows.take()
    # The first window behind the change may hold what waited at its beginning, the ones after it hold nothing.
    behind = [rows.take() for _ in range(200)]
    old = tokens_by_source(behind, shards)["big"]
    assert old <= SPILL * T
    assert tokens_by_source(behind[16:], shards)["big"] == 0


def test_shares_of_the_end_are_counted_from_its_beginning(shards: Shards) -> None:
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, STABLE, 3, anneal_weights=ANNEAL)
    for _ in range(500):
        mixture.draw()
    counts: Counter[str] = Counter()
    for n in range(1, 200):
        document = mixture.draw(annealing=True)
        counts[shards.sources[shards.source_of[document]]] += int(shards.lengths[document])
        for name, weight in ANNEAL.items():
            assert abs(counts[name] - weight * counts.total()) <= shards.lengths.max(), n


def test_no_document_is_lost_or_repeated_at_the_change(shards: Shards) -> None:
    mixture = Mixture(shards.lengths, shards.source_of, shards.sources, STABLE, 3, anneal_weights=ANNEAL)
    drawn = [mixture.draw(annealing=i >= 150) for i in range(400)]
    of_mid = [d for d in drawn if shards.sources[shards.source_of[d]] == "mid"]
    n_mid = int((shards.source_of == shards.sources.index("mid")).sum())
    assert len(of_mid) > 3 * n_mid
    for start in range(0, len(of_mid) - n_mid, n_mid):
        assert len(set(of_mid[start : start + n_mid])) == n_mid
    assert mixture.epochs()["mid"] == len(of_mid) / n_mid
    assert sum(mixture.shares().values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_resume_at_any_batch_equals_the_run_without_a_stop(shards: Shards, kind: Kind, world: int) -> None:
    for rank in range(world):
        loader = PackedLoader(shards, config(kind=kind), rows_per_batch=2, rank=rank, world=world)
        states, expected = [], []
        for _ in range(80 // (2 * world)):
            states.append(through_json(loader.state_dict()))
            expected += hashes(loader, 1)
        expected += hashes(loader, 3)
        assert len(set(expected)) == len(expected)
        for stop, state in enumerate(states):
            resumed = PackedLoader(shards, config(kind=kind), rows_per_batch=2, rank=rank, world=world)
            resumed.load_state_dict(state)
            assert hashes(resumed, 3) == expected[stop : stop + 3]


def test_another_world_size_goes_on_with_the_same_rows(shards: Shards) -> None:
    alone = PackedLoader(shards, config(), rows_per_batch=1)
    expected = [batch.ids_BT.tolist()[0] for batch in itertools.islice(alone, 72)]
    got: list[list[int]] = []
    state: dict[str, Any] | None = None
    for world, n_steps, rows_per_batch in ((4, 4, 2), (1, 4, 3), (2, 7, 2)):
        loaders = [
            PackedLoader(shards, config(), rows_per_batch=rows_per_batch, rank=rank, world=world)
            for rank in range(world)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for _ in range(n_steps):
            got += [row for loader in loaders for row in next(loader).ids_BT.tolist()]
        state = through_json(loaders[0].state_dict())
    assert got == expected


def test_until_it_begins_a_run_is_the_one_without_an_end_of_its_own_in_whole_windows(shards: Shards) -> None:
    through = PackedLoader(shards, config(None), rows_per_batch=1)
    annealed = PackedLoader(shards, config(), rows_per_batch=1)
    assert hashes(annealed, 32) == hashes(through, 32)
    assert "n_annealed" not in through.state_dict()["stream"]["window"]["mixture"]


def test_a_run_branches_off_one_that_had_no_end_or_another_which_had_not_begun(shards: Shards) -> None:
    trunk = PackedLoader(shards, config(None), rows_per_batch=1)
    hashes(trunk, 36)
    state = through_json(trunk.state_dict())
    branch = PackedLoader(shards, config(), rows_per_batch=1)
    branch.load_state_dict(state)
    # The window that was begun is finished as it was packed, so no row of it is lost or comes again.
    n_left = 48 - 36
    assert hashes(branch, n_left - SPILL) == hashes(trunk, n_left - SPILL)
    hashes(branch, 2 * SPILL)
    resumed = PackedLoader(shards, config(), rows_per_batch=1)
    resumed.load_state_dict(through_json(branch.state_dict()))
    assert hashes(resumed, 40) == hashes(branch, 40)
    assert branch.report()["shares"]["small"] > 0.2
    other = PackedLoader(shards, config({"weights": STABLE, "from_row": 60}), rows_per_batch=1)
    other.load_state_dict(state)


def test_a_branch_inside_a_window_that_the_end_cut_short_resumes_exactly(shards: Shards) -> None:
    later = config({"weights": ANNEAL, "from_row": 37})
    trunk = PackedLoader(shards, config(), rows_per_batch=1)
    hashes(trunk, 34)
    branch = PackedLoader(shards, later, rows_per_batch=1)
    branch.load_state_dict(through_json(trunk.state_dict()))
    hashes(branch, 2)
    resumed = PackedLoader(shards, later, rows_per_batch=1)
    resumed.load_state_dict(through_json(branch.state_dict()))
    assert hashes(resumed, 40) == hashes(branch, 40)


@pytest.mark.parametrize(
    "change", [None, {"weights": ANNEAL, "from_row": 10}, {"weights": STABLE, "from_row": FROM}]
)
def test_an_end_that_has_begun_cannot_be_changed(shards: Shards, change: Any) -> None:
    loader = PackedLoader(shards, config(), rows_per_batch=1)
    hashes(loader, FROM + 5)
    with pytest.raises(UserError, match="anneal is"):
        PackedLoader(shards, config(change), rows_per_batch=1).load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "anneal weights are given without weights"),
        ({"anneal": {"weights": {"big": 1}, "from_row": 4}}, "anneal weights are for"),
        ({"anneal": {"weights": dict.fromkeys(STABLE, 0.0), "from_row": 4}}, "all anneal weights are 0"),
        ({"anneal": {"weights": STABLE | {"mid": -1}, "from_row": 4}}, "anneal weights: weight -1.0 of 'mid'"),
    ],
)
def test_an_end_that_cannot_be_is_refused(shards: Shards, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PackedLoader(shards, config(**changes), rows_per_batch=1)


def test_a_source_of_the_end_alone_counts_from_its_first_epoch(shards: Shards) -> None:
    loader = PackedLoader(
        shards, config({"weights": {"big": 0, "mid": 0, "small": 1}, "from_row": 8}), rows_per_batch=4
    )
    hashes(loader, 2)
    assert loader.report()["epochs"]["small"] == 0
    hashes(loader, 10)
    assert loader.report()["epochs"]["small"] > 0
