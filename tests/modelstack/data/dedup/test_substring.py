import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.dedup import (
    WINDOW_KEYS,
    SubstringConfig,
    repeated_spans,
    substring,
    without_spans,
    write_repeats,
    write_windows,
)
from modelstack.data.dedup.substring import Span
from modelstack.errors import UserError

TEXT = st.lists(st.sampled_from(("a", "b", "é", "日本")), max_size=14).map(" ".join)
SHARDS = st.lists(st.lists(TEXT, max_size=3), min_size=1, max_size=3)


def spans_by_brute_force(shards: list[list[str]], n_words: int) -> list[list[list[Span]]]:
    seen: set[tuple[str, ...]] = set()
    answer = []
    for texts in shards:
        answer.append([])
        for text in texts:
            words = text.split()
            goes = [False] * len(words)
            for i in range(len(words) - n_words + 1):
                window = tuple(words[i : i + n_words])
                if window in seen:
                    goes[i : i + n_words] = [True] * n_words
                seen.add(window)
            borders = [i for i in range(len(words) + 1) if (i and goes[i - 1]) != (i < len(words) and goes[i])]
            answer[-1].append(list(zip(borders[::2], borders[1::2], strict=True)))
    return answer


def spans_of(folder: Path, shards: list[list[str]], config: SubstringConfig) -> list[list[list[Span]]]:
    folders = [folder / str(i) for i in range(len(shards))]
    for texts, out in zip(shards, folders, strict=True):
        assert write_windows(texts, out, config) == len(texts)
    write_repeats([out / WINDOW_KEYS for out in folders], folder / "repeats", max_records=5)
    return [list(repeated_spans(folders, i, folder / "repeats", config)) for i in range(len(shards))]


@given(SHARDS, st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_spans_are_those_of_brute_force(shards: list[list[str]], n_words: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = spans_of(Path(folder), shards, SubstringConfig(n_words=n_words))
    assert found == spans_by_brute_force(shards, n_words)


@given(SHARDS)
@settings(max_examples=15, deadline=None)
def test_nothing_goes_for_a_hash_that_is_equal_by_chance(shards: list[list[str]]) -> None:
    def few_values(text: str, n_words: int):
        for part in substring_hashes(text, n_words):
            yield part % np.uint64(3)

    substring_hashes = substring.shingle_hashes
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(substring, "shingle_hashes", few_values)
        found = spans_of(Path(folder), shards, SubstringConfig(n_words=3))
    for texts, spans_of_texts, truth in zip(shards, found, spans_by_brute_force(shards, 3), strict=True):
        for text, spans, true_spans in zip(texts, spans_of_texts, truth, strict=True):
            going = {i for first, after in spans for i in range(first, after)}
            assert going <= {i for first, after in true_spans for i in range(first, after)}, text


def test_a_span_of_fifty_words_goes_and_one_of_forty_nine_stays(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(120)]
    first = " ".join(words)
    copies = " ".join(["x", *words[10:60], "y", *words[60:109], "z"])
    found = spans_of(tmp_path, [[first], [copies]], SubstringConfig())
    assert found == [[[]], [[(1, 51)]]]


@given(st.text("ab \n\t\x1c\u2003"), st.data())
def test_words_that_stay_keep_their_white_space(text: str, data: st.DataObject) -> None:
    words = text.split()
    first = data.draw(st.integers(0, len(words)))
    after = data.draw(st.integers(first, len(words)))
    spans = [(first, after)] if after > first else []
    left = without_spans(text, spans)
    assert left.split() == words[:first] + words[after:]
    if not spans:
        assert left == text


def test_two_spans_are_cut_out_of_a_text() -> None:
    text = "  a b\n\nc d  e f\n"
    assert without_spans(text, [(0, 1), (2, 4)]) == "  b\n\ne f"


def test_windows_of_an_earlier_dump_are_refused(tmp_path: Path) -> None:
    config = SubstringConfig(n_words=2)
    for name in ("old", "new"):
        write_windows(["a b c"], tmp_path / name, config)
    keys = [tmp_path / name / WINDOW_KEYS for name in ("new", "old")]
    write_repeats(keys[:1], tmp_path / "repeats", earlier=keys[1:])
    with pytest.raises(UserError, match="as shards"):
        list(repeated_spans([tmp_path / "new"], 0, tmp_path / "repeats", config))
    with pytest.raises(UserError, match="no shard 1"):
        list(repeated_spans([tmp_path / "new"] * 2, 1, tmp_path / "repeats", config))


def test_an_error_while_windows_are_made_leaves_nothing(tmp_path: Path) -> None:
    def texts():
        yield "a b c"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_windows(texts(), tmp_path / "out", SubstringConfig(n_words=2))
    assert list(tmp_path.iterdir()) == []
