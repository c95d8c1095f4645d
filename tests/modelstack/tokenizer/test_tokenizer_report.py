"""Measures equal what the definitions give by hand; the report sets tokenizers side by side on one text."""

from __future__ import annotations

import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from modelstack.errors import UserError
from modelstack.tokenizer import measures
from modelstack.tokenizer.cut_down import cut_down
from modelstack.tokenizer.documents import Document
from modelstack.tokenizer.report import CostModel, Report, build_report
from modelstack.tokenizer.report_output import print_report, store_report
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.modelstack.tokenizer.texts import LINES
from tests.modelstack.tokenizer.trained import DOCUMENTS, text_tokenizer

SMALL = 640


@pytest.fixture(scope="module")
def report() -> Report:
    documents = [
        Document(line, "code" if "(" in line else "prose", "en" if line.isascii() else "xx") for line in LINES
    ]
    parallel = {
        "en": ["Hello world", "Good day"],
        "de": ["Hallo Welt", "Guten Tag"],
        "ja": ["こんにちは世界", "今日は"],
    }
    tokenizers = {"small": text_tokenizer(vocab_size=SMALL), "large": text_tokenizer()}
    return build_report(tokenizers, documents, parallel=parallel, cost=CostModel(width=8, body_parameters=1000))


def test_counts_of_a_group_are_those_of_its_documents(report: Report) -> None:
    small = text_tokenizer(vocab_size=SMALL)
    code = [line for line in LINES if "(" in line]
    group = report.tokenizers[0].group("domain", "code")
    n_tokens = sum(len(small.encode(line)) for line in code)
    assert (group.kind, group.n_documents, group.n_tokens) == ("domain", len(code), n_tokens)
    assert group.n_bytes == sum(len(line.encode()) for line in code)
    assert group.bytes_per_token is not None
    assert group.bytes_per_token.value == pytest.approx(group.n_bytes / n_tokens)
    assert group.bytes_per_token.low < group.bytes_per_token.value < group.bytes_per_token.high
    assert {g.name for g in report.tokenizers[0].groups} == {"all", "code", "prose", "en", "xx"}


def test_tokens_are_set_against_the_first_tokenizer_on_the_same_documents(report: Report) -> None:
    small, large, cut = report.tokenizers
    assert [each.name for each in report.tokenizers] == ["small", "large", "large cut to 640"]
    own, other = small.group().tokens_to_first, large.group().tokens_to_first
    assert own is not None
    assert (own.value, own.low, own.high) == (1.0, 1.0, 1.0)
    assert other is not None
    assert other.value == pytest.approx(large.group().n_tokens / small.group().n_tokens)
    assert other.high < 1
    assert cut.group().tokens_to_first == own


def test_a_vocabulary_cut_down_equals_the_one_trained_to_that_size() -> None:
    large, small = text_tokenizer(), text_tokenizer(vocab_size=SMALL)
    cut = cut_down(large, SMALL)
    assert len(cut.vocabulary) == SMALL
    assert cut.encode_batch(DOCUMENTS) == small.encode_batch(DOCUMENTS)
    assert cut.vocabulary.special_ids == small.vocabulary.special_ids
    assert [cut.encode_template(name) for name in ("<|im_end|>", "<think>")] == [
        small.encode_template(name) for name in ("<|im_end|>", "<think>")
    ]


def test_a_vocabulary_of_sentencepiece_is_cut_down_by_its_merges() -> None:
    options = {"kind": "byte-fallback", "special_placement": "start"}
    cut = cut_down(text_tokenizer(**options), 800)
    assert len(cut.vocabulary) == 800
    for line in LINES:
        assert cut.decode_bytes(cut.encode(line)).decode() == line
    with pytest.raises(UserError, match="more than the 100 ids of the vocabulary"):
        cut_down(cut, 100)


def test_the_vocabulary_is_paid_for_once_or_twice(report: Report) -> None:
    small = report.tokenizers[0]
    assert small.embedding_parameters == SMALL * 8
    assert small.share_of_model == pytest.approx(SMALL * 8 / (SMALL * 8 + 1000))
    assert measures.embedding_parameters(SMALL, 8, tied=False) == SMALL * 16


def test_parity_is_tokens_over_those_of_the_base_language(report: Report) -> None:
    small = text_tokenizer(vocab_size=SMALL)
    english = sum(len(small.encode(line)) for line in ("Hello world", "Good day"))
    german = sum(len(small.encode(line)) for line in ("Hallo Welt", "Guten Tag"))
    assert report.tokenizers[0].parity["de"].value == pytest.approx(german / english)
    assert set(report.tokenizers[0].parity) == {"de", "ja"}


def test_notes_say_that_sizes_differ_and_that_nfc_changes_documents(report: Report) -> None:
    assert "large: other size than small (640 ids)" in report.notes[0]
    documents = [Document("e\u0301", "x")]
    decomposed = build_report({"qwen2": text_tokenizer()}, documents)
    assert decomposed.tokenizers[0].round_trip_failures == 1
    assert any("not decoded to the same bytes" in note for note in decomposed.notes)
    assert not any("other size than" in note for note in decomposed.notes)


def test_the_same_input_gives_the_same_report(report: Report) -> None:
    documents = [Document(line, "x") for line in LINES]
    again = [build_report({"a": text_tokenizer()}, documents, seed=3) for _ in range(2)]
    first, second = (r.tokenizers[0].model_dump(exclude={"megabytes_per_second"}) for r in again)
    assert first == second


def test_renyi_efficiency_is_one_for_equal_frequencies_and_falls_with_inequality() -> None:
    assert measures.renyi_efficiency(np.array([7, 7, 7, 7])) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    by_hand = math.log(sum(shares**2.5)) / (1 - 2.5) / math.log(4)
    assert measures.renyi_efficiency(np.array([20, 10, 10, 0])) == pytest.approx(by_hand)
    assert measures.renyi_efficiency(np.zeros(4, dtype=np.int64)) == 0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any))
def test_renyi_efficiency_lies_between_none_and_one(counts: list[int]) -> None:
    assert -1e-12 <= measures.renyi_efficiency(np.array(counts)) <= 1 + 1e-12


def test_seldom_tokens_leave_special_ones_out() -> None:
    counts = np.array([0, 0, 4, 5, 100])
    assert measures.seldom_share(counts, 1, special=[0]) == pytest.approx(1 / 4)
    assert measures.seldom_share(counts, 5, special=[0]) == pytest.approx(2 / 4)
    assert measures.token_counts([[2, 2], [4]], 5).tolist() == [0, 0, 2, 0, 1]


def test_the_interval_of_a_ratio_holds_its_value_and_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for k in range(60):
        below = rng.integers(50, 150, size=80)
        above = (below * rng.normal(3.0, 0.5, size=80)).astype(np.int64)
        interval = measures.ratio_interval(above, below, seed=k)
        assert interval is not None
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 3.0 <= interval.high
    assert 50 <= covered <= 60
    assert measures.ratio_interval(np.array([1]), np.array([0])) is None


def test_words_are_letters_with_their_marks_and_apostrophes() -> None:
    counts = measures.words_of("Don't stop: o’clock, foo_bar 12 नमस्ते déjà-vu don't")
    assert counts == Counter(["Don't", "stop", "o’clock", "foo", "bar", "नमस्ते", "déjà", "vu", "don't"])


def test_fertility_counts_every_occurrence_of_a_word() -> None:
    texts = ["aa b aa", "ccc"]
    lengths = {" aa": 2, " b": 1, " ccc": 3}
    encoded = measures.count_encoded(
        texts,
        [measures.words_of(text) for text in texts],
        [[0] * 5, [0]],
        lambda words: [[0] * lengths[w] for w in words],
    )
    assert encoded.n_words.tolist() == [3, 1]
    assert encoded.n_word_tokens.tolist() == [5, 3]
    assert encoded.n_whole_words.tolist() == [1, 0]
    assert encoded.n_bytes.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("digits", "nine", "eight"),
    [("1", (1,) * 9, (1,) * 8), ("3", (3, 3, 3), (3, 3, 2)), ("right-3", (3, 3, 3), (2, 3, 3))],
)
def test_numbers_of_one_length_are_cut_alike(digits: str, nine: tuple[int, ...], eight: tuple[int, ...]) -> None:
    numbers = [f"{n} {n:02d} {n:03d}" for n in range(1000)] * 3
    made = train_tokenizer(numbers, TokenizerConfig.model_validate({"vocab_size": 2000, "digits": digits}))
    tokenizer = made.text_tokenizer()
    splits = measures.digit_splits(tokenizer.encode_batch, tokenizer.vocabulary.token_bytes)
    assert [(s.n_digits, s.pieces) for s in splits[-2:]] == [(8, eight), (9, nine)]
    assert min(split.share for split in splits) == 1


def test_numbers_cut_by_merges_alone_are_not_cut_alike() -> None:
    made = train_tokenizer(["2024 1999 1000 123 77 5"] * 9, TokenizerConfig(vocab_size=330, digits="runs"))
    tokenizer = made.text_tokenizer()
    splits = measures.digit_splits(tokenizer.encode_batch, tokenizer.vocabulary.token_bytes)
    assert min(split.share for split in splits) < 1


def test_tokens_that_cut_a_character_are_counted() -> None:
    assert measures.cuts_characters({0: b"a", 1: b"\xc3", 2: "é".encode(), 3: b"\xa9 x"}) == 2


@pytest.mark.parametrize(
    ("parallel", "reason"),
    [
        ({"de": ["a"]}, "has no 'en', only de"),
        ({"en": ["a", "b"], "de": ["a"]}, "en has 2, de has 1"),
        ({"en": []}, "en has 0"),
    ],
)
def test_parallel_text_that_is_not_parallel_is_refused(parallel: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build_report({"a": text_tokenizer()}, [Document("x", "x")], parallel=parallel)


def test_no_text_is_an_error() -> None:
    with pytest.raises(UserError, match="no text to measure on"):
        build_report({"a": text_tokenizer()}, [Document("", "x")])


def test_a_report_is_printed_stored_and_drawn(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="extra `train`")
    out = io.StringIO()
    print_report(report, Console(file=out, width=140))
    for text in ("bytes per token", "large cut to 640", "code (", "parity", "100%, 1 each", "numbers split alike"):
        assert text in out.getvalue()
    stored, drawn = store_report(report, tmp_path / "out")
    assert Report.model_validate_json(stored.read_text(encoding="utf-8")) == report
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_smollm2_is_measured_from_its_gguf(smollm2_gguf: Path) -> None:
    tokenizers = {"ours": text_tokenizer(), "smollm2": load_tokenizer(smollm2_gguf)}
    measured = build_report(tokenizers, [Document(line, "x") for line in LINES[:3]], equal_size=False)
    smollm2 = measured.tokenizers[1]
    assert (smollm2.n_ids, smollm2.n_special) == (49_152, 17)
    assert smollm2.embedding_parameters == 49_152 * 576
    assert smollm2.share_of_model == pytest.approx(28_311_552 / 134_515_008)
    assert {split.pieces for split in smollm2.digits} == {(1,) * n for n in range(1, 10)}
