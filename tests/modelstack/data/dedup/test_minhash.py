import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelstack.data.dedup import MinHash, MinHashConfig
from modelstack.data.dedup.datatrove_hashes import least_hashes
from modelstack.data.dedup.shingles import PIECE_BYTES, shingle_hashes
from modelstack.data.dedup.simplify import simplify

HASHES = [640595165669306166, 17238580406032373521]
SIGNATURE = [989123290, 134351485, 368446598]
KEYS = [9024122426944129409, 17168331917122924430]
RECORDED = json.loads(Path(__file__).with_name("datatrove-0.10.1-signatures.json").read_text(encoding="utf-8"))


def all_hashes(text: str, n_words: int) -> list[int]:
    return [int(x) for part in shingle_hashes(text, n_words) for x in part]


def signature_of(minhash: MinHash, words: list[str]) -> np.ndarray:
    signature = minhash.signature(" ".join(words))
    assert signature is not None
    return signature


@pytest.mark.parametrize("document", RECORDED["documents"], ids=lambda document: repr(document["text"][:20]))
def test_text_is_simplified_as_datatrove_does(document: dict) -> None:
    assert simplify(document["text"]) == document["simplified"]


def test_the_same_characters_part_words_as_in_datatrove() -> None:
    parts = simplify("".join(f"zqa{chr(point)}b" for point in range(0xD800))).split("zq")[1:]
    assert [point for point, part in enumerate(parts) if part == "a b"] == RECORDED["spaces"]


@pytest.mark.parametrize("document", RECORDED["documents"], ids=lambda document: repr(document["text"][:20]))
def test_the_family_datatrove_has_datatroves_signatures_given_its_words(document: dict) -> None:
    minhash = MinHash(MinHashConfig(family="datatrove"), split_words=lambda text: document["words"])
    signature = minhash.signature(minhash.prepared(document["text"]))
    assert (None if signature is None else signature.tolist()) == document["signature"]


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**61 - 2), st.integers(0, 2**61 - 2))
@example(2**61 - 1, 1, 0)
@example(2**61 - 2, 1, 0)
@example(2**64 - 1, 1, 0)
@example(2**62 - 2, 1, 0)
def test_the_family_datatrove_wraps_at_2_to_64_and_then_takes_the_remainder(x: int, a: int, b: int) -> None:
    found = least_hashes(*(np.array([number], np.uint64) for number in (x, a, b)))
    assert int(found[0]) == (a * x + b) % 2**64 % (2**61 - 1)


@given(st.text("0١9.,٫٠a |１"))
@settings(max_examples=200, deadline=None)
def test_numbers_are_folded_from_the_left_with_one_fraction(text: str) -> None:
    folded = re.sub(r"\d+(?:[.,٫]\d+)?", "0", text)
    for mark in ".,|":
        folded = folded.replace(mark, " ")
    assert simplify(text).split() == folded.split()


@given(st.lists(st.text(st.characters(exclude_categories=("Zs", "Cc", "Zl", "Zp")), min_size=1), max_size=12))
@settings(max_examples=80, deadline=None)
def test_two_runs_of_words_have_one_hash_exactly_if_they_are_equal(words: list[str]) -> None:
    words = [word for word in words if word.split() == [word]]
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    hashes = all_hashes(" ".join(words), 3)
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes, strict=True))) == len(set(runs)) == len(set(hashes))


def test_a_run_has_the_same_hash_wherever_it_stands_in_however_long_a_text() -> None:
    numbers = random.Random(0)
    words = ["w" * numbers.choice((1, 5, 9, 3000)) + str(numbers.randrange(50)) for _ in range(400)]
    words[100] = "x" * (2 * PIECE_BYTES)
    text = " ".join(words)
    assert len(text) > 4 * PIECE_BYTES
    assert all_hashes(text, 5) == [all_hashes(" ".join(words[i : i + 5]), 5)[0] for i in range(len(words) - 4)]


def test_hashes_and_signatures_never_change() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    assert all_hashes(text, 5)[:2] == HASHES
    minhash = MinHash(MinHashConfig())
    signature = minhash.signature(text)
    assert signature is not None
    assert signature[:3].tolist() == SIGNATURE
    assert minhash.keys(signature[None])[0, :2].tolist() == KEYS


def test_a_signature_is_the_least_value_of_each_function_whatever_the_size_of_the_text() -> None:
    config = MinHashConfig(n_buckets=3, n_hashes=2)
    minhash = MinHash(config)
    words = [f"word{i}" for i in range(30_000)]
    hashes = all_hashes(" ".join(words), 5)
    a = [int(x) for x in minhash._a]
    expected = [min(((x >> 32) + k * (x & 0xFFFFFFFF)) % 2**32 for x in hashes) for k in a]
    assert signature_of(minhash, words).tolist() == expected


def test_any_two_functions_differ_by_more_than_their_low_bits() -> None:
    a = MinHash(MinHashConfig(n_buckets=450, n_hashes=20))._a
    assert len(a) == 9000
    assert len(np.unique(a & np.uint32((1 << 17) - 1))) == 9000


@given(
    st.lists(st.lists(st.sampled_from(("a", "bb", "é")), max_size=9).map(" ".join), max_size=9), st.integers(1, 5)
)
@settings(max_examples=80, deadline=None)
def test_texts_together_have_the_signatures_that_each_has_alone(texts: list[str], n_words: int) -> None:
    together_and_alone(texts, MinHashConfig(n_words=n_words, n_buckets=2, n_hashes=3))


@pytest.mark.parametrize("family", ["pairwise", "datatrove"])
def test_long_and_short_texts_together_have_the_signatures_that_each_has_alone(family: str) -> None:
    numbers = random.Random(2)
    lengths = (3, 9000, 0, 40, 700, 5, 20_000, 4, 300, *(numbers.randrange(60) for _ in range(200)))
    texts = [" ".join(f"w{numbers.randrange(10**6)}" for _ in range(length)) for length in lengths]
    together_and_alone(texts, MinHashConfig.model_validate({"family": family, "n_buckets": 3}))


def together_and_alone(texts: list[str], config: MinHashConfig) -> None:
    minhash = MinHash(config)
    found, places = minhash.signatures(texts)
    assert places.tolist() == [i for i, text in enumerate(texts) if len(text.split()) >= config.n_words]
    for place, signature in zip(places, found, strict=True):
        alone = minhash.signature(texts[place])
        assert alone is not None and (alone == signature).all()


@pytest.mark.parametrize("n_words", [24, 400])
def test_the_estimate_of_similarity_has_no_bias_and_the_variance_of_independent_functions(n_words: int) -> None:
    numbers = random.Random(n_words)
    minhash = MinHash(MinHashConfig())
    errors: list[float] = []
    variances: list[float] = []
    for pair in range(300):
        common = [f"{pair}c{i}" for i in range(n_words)]
        left = [f"{pair}l{i}" for i in range(n_words // 4)]
        right = [f"{pair}r{i}" for i in range(numbers.randrange(1, n_words // 2))]
        n_common = n_words - 4
        n_union = n_common + len(left) + len(right)
        similarity = n_common / n_union
        a, b = signature_of(minhash, common + left), signature_of(minhash, common + right)
        errors.append(float((a == b).mean()) - similarity)
        variances.append(similarity * (1 - similarity) / 112)
    # 300 draws of a known deviation: the mean within 4 standard errors, the variance within 4 of its own.
    assert abs(np.mean(errors)) < 4 * math.sqrt(np.mean(variances) / 300)
    assert abs(np.mean(np.square(errors)) / np.mean(variances) - 1) < 4 * math.sqrt(2 / 300)


@pytest.mark.parametrize("family", ["pairwise", "datatrove"])
@pytest.mark.parametrize("text", ["", "  ", "one two three four", "…!?"])
def test_a_text_of_too_few_words_has_no_signature(family: str, text: str) -> None:
    minhash = MinHash(MinHashConfig.model_validate({"family": family}))
    assert minhash.signature(minhash.prepared(text)) is None


def test_lone_surrogates_and_marks_alone_are_hashed_like_any_text() -> None:
    minhash = MinHash(MinHashConfig())
    assert minhash.signature(minhash.prepared("a \ud800 b c d \udfff e f")) is not None
    assert minhash.prepared("a \u0301 b") == "a  b"
    with_mark = minhash.signature(minhash.prepared("a \u0301 b c d e"))
    without = minhash.signature("a b c d e")
    assert with_mark is not None and without is not None and (with_mark == without).all()


def test_a_million_marks_in_a_row_take_no_longer_than_other_text() -> None:
    # Sorted all at once, as NFD has it, they would take the rest of the day.
    assert simplify("a" + "\u0300\u0316" * 500_000 + "é b") == "ae b"
    assert len(simplify("\u302e\U0001d165" * 100_000)) == 200_000


def test_the_probability_of_a_pair_is_finewebs_table() -> None:
    config = MinHashConfig()
    assert [round(config.p_pair(s), 3) for s in (0.6, 0.7, 0.75, 0.8, 0.85)] == [0.211, 0.565, 0.772, 0.924, 0.988]


def test_too_many_functions_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most 16,384"):
        MinHashConfig(n_buckets=10_000, n_hashes=20)
