import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.dedup import key_files, pairs_of_bucket
from modelstack.data.dedup.key_files import KeyFile, KeyWriter
from modelstack.data.dedup.merging import EARLIER, merged
from modelstack.data.dedup.pairs import read_pairs
from modelstack.errors import UserError

# Few of them, at the ends of the range and side by side, so that ranges are halved to the last.
KEYS = (0, 1, 2, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
SHARD = st.lists(st.sampled_from(KEYS), max_size=12)


def write_keys(path: Path, keys: list[int], n_buckets: int = 1, settings_text: str = "test") -> Path:
    with KeyWriter(path, settings_text, n_buckets) as writer:
        for i in range(0, len(keys), 3):
            part = np.array(keys[i : i + 3], np.uint64)
            columns = np.stack([part + np.uint64(bucket) for bucket in range(n_buckets)], axis=1)
            writer.add(columns, i + np.arange(len(part)))
        writer.count(len(keys))
    return path


@given(st.lists(SHARD, min_size=1, max_size=4), st.lists(SHARD, max_size=2), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_pairs_are_the_first_of_a_key_and_each_other_whatever_fits_into_memory(
    shards: list[list[int]], earlier: list[list[int]], max_records: int, run_records: int
) -> None:
    expected = set()
    firsts: dict[int, int] = {key: int(EARLIER) for shard in earlier for key in shard}
    for shard, keys in enumerate(shards):
        for position, key in enumerate(keys):
            name = shard << 32 | position
            if firsts.setdefault(key, name) != name:
                expected.add((firsts[key], name))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_files, "RUN_BYTES", 12 * run_records)
        folder = Path(name)
        new = [write_keys(folder / f"{i}.keys", keys) for i, keys in enumerate(shards)]
        old = [write_keys(folder / f"{i}.old", keys) for i, keys in enumerate(earlier)]
        out = folder / "out.pairs"
        n = pairs_of_bucket(new, 0, out, earlier=old, max_records=max_records)
        found = [tuple(map(int, pair)) for part in read_pairs(out) for pair in part]
    assert len(found) == n == len(expected)
    assert set(found) == expected


def test_records_come_in_the_order_of_keys_then_names_and_few_at_a_time(tmp_path: Path) -> None:
    numbers = np.random.RandomState(0)
    shards = [numbers.randint(0, 2**64 - 1, 500, np.uint64).tolist() + [7] * 40 for _ in range(3)]
    files = [KeyFile.open(write_keys(tmp_path / f"{i}.keys", keys)) for i, keys in enumerate(shards)]
    parts = list(merged(files, 0, max_records=64))
    assert max(len(keys) for keys, _ in parts) <= 64
    found = [(int(key), int(name)) for part in parts for key, name in zip(*part, strict=True)]
    names = defaultdict(list)
    for shard, keys in enumerate(shards):
        for position, key in enumerate(keys):
            names[key].append(shard << 32 | position)
    assert found == [(key, name) for key in sorted(names) for name in names[key]]


def test_each_bucket_has_its_own_keys(tmp_path: Path) -> None:
    file = KeyFile.open(write_keys(tmp_path / "keys", [5, 3, 9, 1], n_buckets=3))
    assert [file.keys(bucket, 0).tolist() for bucket in range(3)] == [[1, 3, 5, 9], [2, 4, 6, 10], [3, 5, 7, 11]]
    assert file.records(2, 0, 1, 3)[1].tolist() == [1, 0]
    assert file.n_documents == 4


def test_an_error_while_keys_are_made_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), KeyWriter(tmp_path / "keys", "test", 1) as writer:
        writer.add(np.zeros((1, 1), np.uint64), np.array([1 // 0]))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_or_is_another_is_refused(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", [1, 2, 3])
    data = path.read_bytes()
    for wrong in (b"", b"short", data[:-1], data[: len(data) // 2], data[:20] + data[60:], b"x" * 100):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="write it again"):
            KeyFile.open(path)


def test_keys_that_were_made_differently_are_not_compared(tmp_path: Path) -> None:
    paths = [write_keys(tmp_path / name, [1], settings_text=name) for name in ("a", "b")]
    with pytest.raises(UserError, match="same configuration"):
        pairs_of_bucket(paths, 0, tmp_path / "pairs")
    with pytest.raises(UserError, match="bucket 1"):
        pairs_of_bucket(paths[:1], 1, tmp_path / "pairs")


def test_a_position_past_32_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="smaller shards"), KeyWriter(tmp_path / "keys", "test", 1) as writer:
        writer.add(np.zeros((1, 1), np.uint64), np.array([1 << 32]))
