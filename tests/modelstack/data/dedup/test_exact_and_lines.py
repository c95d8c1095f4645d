import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.dedup import (
    ExactConfig,
    LinesConfig,
    lengths_of,
    pairs_of_bucket,
    read_copies,
    without_repeats,
    write_clusters,
    write_copies,
    write_exact_keys,
    write_line_keys,
    write_repeats,
)
from modelstack.data.dedup.simplify import simplify
from modelstack.errors import UserError


def copies_of(folder: Path, shards: list[list[str]], config: ExactConfig) -> list[list[int]]:
    files = [folder / f"{i}.keys" for i in range(len(shards))]
    counts = [write_exact_keys(texts, file, config) for texts, file in zip(shards, files, strict=True)]
    pairs_of_bucket(files, 0, folder / "pairs")
    write_clusters([folder / "pairs"], counts, folder / "clusters.npy")
    write_copies(folder / "clusters.npy", counts, lengths_of(files), folder / "copies.npy")
    return [read_copies(folder / "copies.npy", counts, i).tolist() for i in range(len(shards))]


def test_of_equal_texts_the_first_stays_and_of_simplified_ones_the_longest(tmp_path: Path) -> None:
    shards = [["One text.", "another", "One text."], ["", "one  TEXT!!", "another"], []]
    assert copies_of(tmp_path, shards, ExactConfig()) == [[2, 2, 0], [1, 1, 0], []]
    assert copies_of(tmp_path, shards, ExactConfig(simplified=True)) == [[0, 2, 0], [1, 3, 0], []]


def test_keys_of_texts_hold_no_lengths_where_they_are_of_lines(tmp_path: Path) -> None:
    write_line_keys(["a"], tmp_path / "keys", LinesConfig())
    with pytest.raises(UserError, match="pass another score"):
        lengths_of([tmp_path / "keys"])(0)


LINE = st.sampled_from(("", " ", "a", "A ", "menu | home", "Menu |  HOME", "}"))


@given(
    st.lists(st.lists(st.lists(LINE, max_size=4).map("\n".join), max_size=3), max_size=3),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_of_equal_lines_the_first_stays(shards: list[list[str]], min_chars: int, simplified: bool) -> None:
    config = LinesConfig(unit="line", min_chars=min_chars, simplified=simplified)
    seen: set[str] = set()
    expected = []
    for texts in shards:
        expected.append([])
        for text in texts:
            kept = []
            for line in text.split("\n"):
                key = simplify(line) if simplified else " ".join(line.split())
                if len(key) < min_chars or key not in seen:
                    kept.append(line)
                seen.add(key)
            expected[-1].append("\n".join(kept))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{i}.keys" for i in range(len(shards))]
        for texts, file in zip(shards, files, strict=True):
            write_line_keys(texts, file, config)
        write_repeats(files, folder / "repeats", max_records=3)
        found = [list(without_repeats(texts, folder / "repeats", i, config)) for i, texts in enumerate(shards)]
    assert found == expected


def test_paragraphs_end_at_an_empty_line_and_earlier_dumps_count(tmp_path: Path) -> None:
    config = LinesConfig(simplified=True)
    write_line_keys(["cookies\nhere"], tmp_path / "old.keys", config)
    texts = ["new\n\nCookies here\n\nend", "end\n\nnew"]
    write_line_keys(texts, tmp_path / "new.keys", config)
    write_repeats([tmp_path / "new.keys"], tmp_path / "repeats", earlier=[tmp_path / "old.keys"])
    assert list(without_repeats(texts, tmp_path / "repeats", 0, config)) == ["new\n\nend", ""]
