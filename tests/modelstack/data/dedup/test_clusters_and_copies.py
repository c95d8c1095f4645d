import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.dedup import clusters, copies, read_copies, rehydration_weights, write_clusters, write_copies
from modelstack.data.dedup.clusters import join
from modelstack.data.dedup.merging import EARLIER
from modelstack.errors import UserError

COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def write_pairs(path: Path, pairs: list[tuple[int, int]]) -> Path:
    np.array(pairs, "<u8").tofile(path)
    return path


def name_of(document: int, counts: list[int]) -> int:
    for shard, count in enumerate(counts):
        if document < count:
            return shard << 32 | document
        document -= count
    raise AssertionError(document)


def roots_of(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    roots = list(range(n))
    for a, b in pairs:
        low, high = sorted((roots[a], roots[b]))
        roots = [low if root == high else root for root in roots]
    return roots


@given(st.data(), COUNTS, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_each_cluster_keeps_its_best_document_and_says_how_many_it_stands_for(
    data: st.DataObject, counts: list[int], block: int
) -> None:
    n = sum(counts)
    document = st.integers(0, max(n - 1, 0))
    pairs = data.draw(st.lists(st.tuples(document, document), max_size=8)) if n else []
    known = data.draw(st.lists(document, max_size=2)) if n else []
    scores = data.draw(st.lists(st.sampled_from((-1.5, 0.0, 3.0)), min_size=n, max_size=n))
    roots = roots_of(n, pairs)
    expected = []
    for i in range(n):
        members = [j for j in range(n) if roots[j] == roots[i]]
        best = max(members, key=lambda j: (scores[j], -j))
        expected.append(len(members) if best == i and not {roots[j] for j in known} & {roots[i]} else 0)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr(clusters, "_BLOCK", block)
        patch.setattr(copies, "_BLOCK", block)
        names = [(name_of(a, counts), name_of(b, counts)) for a, b in pairs]
        files = [
            write_pairs(folder / "a", names[::2]),
            write_pairs(folder / "b", names[1::2] + [(int(EARLIER), name_of(j, counts)) for j in known]),
        ]
        n_others = write_clusters(files, counts, folder / "clusters.npy")
        n_kept = write_copies(
            folder / "clusters.npy",
            counts,
            lambda shard: np.array(scores[offsets[shard] : offsets[shard + 1]]),
            folder / "copies.npy",
        )
        found = [read_copies(folder / "copies.npy", counts, shard).tolist() for shard in range(len(counts))]
    assert sum(found, []) == expected
    assert n_kept == sum(number > 0 for number in expected)
    assert n_others == n - len(set(roots))


def test_a_long_chain_in_any_order_is_one_cluster() -> None:
    n = 20_000
    order = np.random.RandomState(0).permutation(n)
    for chain in (np.arange(n), np.arange(n)[::-1], order):
        parents = np.arange(n, dtype=np.uint32)
        for i in range(0, n - 1, 3000):
            part = chain[i : i + 3001]
            join(parents, part[:-1], part[1:])
        join(parents, np.arange(n), np.arange(n))
        assert (parents == 0).all()


def test_a_pair_of_a_document_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for pair, what in (((0, 2), "document 2 of shard 0"), ((1 << 32, 0), "shard 1, but 1 shards were counted")):
        with pytest.raises(UserError, match=what):
            write_clusters([write_pairs(tmp_path / "pairs", [pair])], [2], tmp_path / "clusters.npy")
    (tmp_path / "pairs").write_bytes(b"123")
    with pytest.raises(UserError, match="not a multiple of the 16 bytes of a pair"):
        write_clusters([tmp_path / "pairs"], [2], tmp_path / "clusters.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_scores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_clusters([write_pairs(tmp_path / "pairs", [(0, 1)])], [3], tmp_path / "clusters.npy")
    out = tmp_path / "copies.npy"
    with pytest.raises(UserError, match="give one for each"):
        write_copies(tmp_path / "clusters.npy", [3], lambda shard: np.zeros(2), out)
    with pytest.raises(UserError, match="document 1 of shard 0"):
        write_copies(tmp_path / "clusters.npy", [3], lambda shard: np.array([0, np.nan, 1]), out)
    with pytest.raises(UserError, match="write it again"):
        write_copies(tmp_path / "clusters.npy", [4], lambda shard: np.zeros(4), out)
    assert not out.exists()


def test_rehydration_follows_fineweb_2() -> None:
    copies_of = np.array([0, 1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**6], np.uint32)
    assert rehydration_weights(copies_of).tolist() == [0, 1, 2, 3, 3, 5, 5, 8, 8, 1, 1]
