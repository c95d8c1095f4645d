"""Hashed n-gram features and a few dense ones, vectorised over code points.

Words 1-3 and characters 3-5 are hashed into buckets (Weinberger et al., 2009), each as a whole-array operation: a
character n-gram is a polynomial of its code points, a word is the difference of two prefix sums of such a
polynomial, and a word n-gram mixes the hashes of its words. No loop runs over n-grams. numpy alone.

A text is read in overlapping windows of about 512 tokens (four characters each). A classifier takes the largest
logit over the windows of all views, so one sentence of a long document counts.

Letters: C characters, W words, B buckets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.align.guards import normalise

FEATURE_VERSION = 1
"""Version of the features; a change invalidates weights that were fitted before."""

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
# A 64-bit odd number has an inverse modulo 2^64; Python's pow finds it.
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_SALT = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Settings of the features; their hash is stored with the weights."""

    n_buckets: int = 1 << 19
    """Power of two; the lower half holds words, the upper half characters."""
    word_n: tuple[int, ...] = (1, 2, 3)
    character_n: tuple[int, ...] = (3, 4, 5)
    skip_words: bool = True
    """Whether pairs of words with one word between them are features."""
    window_characters: int = 2048
    stride_characters: int = 1536
    decode: bool = True
    """Whether hidden texts are decoded and read."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of its range.
        """
        if self.n_buckets < 1024 or self.n_buckets & (self.n_buckets - 1) or self.n_buckets > 1 << 24:
            raise ValueError(f"n_buckets is {self.n_buckets}: a power of two from 1,024 to 16,777,216 is needed")
        if not 0 < self.stride_characters <= self.window_characters:
            raise ValueError(f"stride {self.stride_characters} must lie within 1 and {self.window_characters}")
        if not set(self.word_n) <= {1, 2, 3} or not set(self.character_n) <= {2, 3, 4, 5, 6}:
            raise ValueError(f"n-grams {self.word_n} and {self.character_n}: words 1 to 3, characters 2 to 6")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return {**asdict(self), "word_n": list(self.word_n), "character_n": list(self.character_n)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FeatureSpec:
        """Return the spec of JSON data.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        try:
            tuples = {key: tuple(data[key]) for key in ("word_n", "character_n") if key in data}
            return cls(**{**data, **tuples})
        except TypeError as error:
            raise ValueError(f"feature spec {data!r}: {error}") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the fields and of the version of this code."""
        stated = json.dumps({"version": FEATURE_VERSION, "dense": DENSE, **self.to_json()}, sort_keys=True)
        return hashlib.sha256(stated.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class WindowFeatures:
    """Features of one window of one view."""

    view: int
    """Index of the view among the readings."""
    start: int
    """First character of the window within its view."""
    buckets: NDArray[np.int64]
    """Distinct buckets, ascending."""
    values: NDArray[np.float32]
    """Value of each bucket: 1 / sqrt(number of distinct buckets), within words and within characters."""
    dense: NDArray[np.float32]
    """Dense features in the order of `DENSE`, each within about 0 to 1."""


DENSE: tuple[str, ...] = (
    "log_characters",
    "punctuation_share",
    "digit_share",
    "upper_share",
    "newline_share",
    "non_ascii_share",
    "character_entropy",
    "longest_word",
    "densest_punctuation",
    "question_mark",
    "hidden_characters",
    "look_alikes",
    "decoded",
    "is_decoded_view",
    "role_words",
    "imperative_markers",
    "model_words",
    "second_person",
    "links",
)

_ROLE_WORDS = re.compile(
    r"<\|?/?(?:im_start|im_end|system|user|assistant|inst|endoftext|tool)\|?>|\[/?inst\]|<<sys>>"
    r"|(?:^|\n|[#*\[(]) ?(?:system|assistant|user|human|ai|developer) ?(?:message|prompt|note)? ?[:\])]"
)
_IMPERATIVES = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|pretend|you must|you will|you are now|from now on|do not tell"
    r"|without telling|instead of|new instructions?|stop what|never (?:refuse|mention)"
    r"|always (?:reply|answer|respond)|in your (?:response|reply|answer)|immediately)\b"
)
_MODEL_WORDS = re.compile(
    r"\b(?:prompt|instructions?|assistant|chatgpt|gpt|language model|llm|ai|chatbot|openai|jailbreak"
    r"|developer mode|guidelines|restrictions|filters?|policy|policies)\b"
)
_SECOND_PERSON = re.compile(r"\b(?:you|your|yourself)\b")
_LINKS = re.compile(r"https?://|www\.|\b[\w-]{2,40}\.(?:com|net|org|xyz|io)\b|@[\w-]{2,40}\.")
_COUNTED = (_ROLE_WORDS, _IMPERATIVES, _MODEL_WORDS, _SECOND_PERSON, _LINKS)

# Classes of the first 128 code points; most code points beyond them are letters.
_WORD, _SPACE = 1, 2
_CLASSES = np.zeros(128, np.uint8)
for _code in range(128):
    _CLASSES[_code] = _WORD * chr(_code).isalnum() + _SPACE * chr(_code).isspace()


def windows(text: str | normalise.Views, spec: FeatureSpec) -> Iterator[WindowFeatures]:
    """Yield the features of each window of each view; an empty text has one window.

    Args:
        text: A raw text, which is normalised and decoded here, or its readings.
        spec: Settings of the features.
    """
    readings = normalise.views(text, decode=spec.decode) if isinstance(text, str) else text
    for index in range(len(readings.views)):
        yield from _view_windows(index, readings, spec)


def word_grams(text: str, spec: FeatureSpec) -> list[tuple[str, int]]:
    """Return the words and pairs of words of a text, each with its bucket, as candidates for reasons.

    Args:
        text: A reading (`normalise.View.text`), not a raw text.
        spec: Settings of the classifier.
    """
    lowered_text = text.lower()
    codes = _code_points(lowered_text)
    starts, ends, one = _words(codes, _classes(codes))
    half = spec.n_buckets // 2
    grams: list[tuple[str, int]] = []
    for n, hashes in ((1, one + _SALT), (2, one[:-1] * _BASE + one[1:])):
        if n in spec.word_n:
            buckets = _mixed(hashes) >> np.uint64(65 - half.bit_length())
            grams += [(lowered_text[starts[i] : ends[i + n - 1]], int(bucket)) for i, bucket in enumerate(buckets)]
    return grams


def _view_windows(index: int, readings: normalise.Views, spec: FeatureSpec) -> Iterator[WindowFeatures]:
    view = readings.views[index]
    cased = _code_points(view.text)
    lowered_text = view.text.lower()
    lowered = _code_points(lowered_text)
    if lowered.size != cased.size:  # some capitals become two letters
        cased = lowered
    counts = [np.fromiter((m.start() for m in pattern.finditer(lowered_text)), np.int64) for pattern in _COUNTED]
    shared = (
        min(1.0, readings.n_hidden / 8),
        min(1.0, readings.n_look_alikes / 4),
        min(1.0, len(readings.encodings) / 2),
        float(bool(view.encodings)),
    )
    n = lowered.size
    last = max(0, n - spec.window_characters)
    starts = [*range(0, last, spec.stride_characters), last]
    for start in starts:
        stop = min(n, start + spec.window_characters)
        local = [int(np.count_nonzero((found >= start) & (found < stop))) for found in counts]
        piece = lowered[start:stop]
        classes = _classes(piece)
        buckets, values = _hashed(piece, classes, spec)
        yield WindowFeatures(index, start, buckets, values, _dense(cased[start:stop], classes, shared, local))


def _code_points(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)


def _classes(codes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    small = codes < 128
    if small.all():
        return _CLASSES[codes]
    # General punctuation, symbols and CJK punctuation are not letters; everything else beyond ASCII is.
    other = np.where(((codes >= 0x2000) & (codes < 0x2C00)) | ((codes >= 0x3000) & (codes < 0x3040)), 0, _WORD)
    return np.where(small, _CLASSES[np.minimum(codes, 127)], other).astype(np.uint8)


def _hashed(
    codes: NDArray[np.uint64], classes: NDArray[np.uint8], spec: FeatureSpec
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    half = spec.n_buckets // 2
    words = _distinct(_word_hashes(codes, classes, spec), half)
    characters = _distinct(_character_hashes(codes, spec), half)
    values = np.empty(words.size + characters.size, np.float32)
    values[: words.size] = 1 / max(1.0, words.size) ** 0.5
    values[words.size :] = 1 / max(1.0, characters.size) ** 0.5
    return np.concatenate([words, characters + half]), values


def _distinct(hashes: list[NDArray[np.uint64]], n_buckets: int) -> NDArray[np.int64]:
    if not hashes:
        return np.empty(0, np.int64)
    buckets = np.sort(_mixed(np.concatenate(hashes)) >> np.uint64(65 - n_buckets.bit_length()))
    first = np.ones(buckets.size, bool)
    first[1:] = buckets[1:] != buckets[:-1]
    return buckets[first].astype(np.int64)


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return mixed hashes, in which each bit depends on every bit before (the finaliser of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _character_hashes(codes: NDArray[np.uint64], spec: FeatureSpec) -> list[NDArray[np.uint64]]:
    # White space is one sign, and a text begins and ends with it: "^ki" and "kill$" are features.
    padded = np.empty(codes.size + 2, np.uint64)
    padded[0] = padded[-1] = 32
    padded[1:-1] = codes
    padded[padded == 10] = 32
    hashes: list[NDArray[np.uint64]] = []
    rolling = padded + np.uint64(1)
    for n in range(2, max(spec.character_n, default=0) + 1):
        if padded.size < n:
            break
        rolling = rolling[:-1] * _BASE + padded[n - 1 :]
        if n in spec.character_n:
            hashes.append(rolling + np.uint64(n * int(_SALT) % (1 << 64)))
    return hashes


def _words(
    codes: NDArray[np.uint64], classes: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Return the start and the end of each word, and its hash, which does not depend on its place."""
    inside = np.zeros(codes.size + 2, np.int8)
    inside[1:-1] = classes & _WORD
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[0::2], edges[1::2]
    powers, inverses = _powers(codes.size + 1)
    sums = np.zeros(codes.size + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * powers[:-1], out=sums[1:])
    return starts, ends, _mixed((sums[ends] - sums[starts]) * inverses[starts])


def _word_hashes(
    codes: NDArray[np.uint64], classes: NDArray[np.uint8], spec: FeatureSpec
) -> list[NDArray[np.uint64]]:
    one = _words(codes, classes)[2]
    hashes: list[NDArray[np.uint64]] = []
    if 1 in spec.word_n:
        hashes.append(one + _SALT)
    two = one[:-1] * _BASE + one[1:]
    if 2 in spec.word_n:
        hashes.append(two)
    if 3 in spec.word_n:
        hashes.append((two[:-1] * _BASE + one[2:]) ^ _SALT)
    if spec.skip_words:
        hashes.append((one[:-2] * _INVERSE + one[2:]) ^ _SALT)
    return hashes


_power_tables = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first n powers of the base and of its inverse (kept; a window bounds n)."""
    global _power_tables
    if _power_tables[0].size < n:
        tables = []
        for factor in (_BASE, _INVERSE):
            steps = np.full(max(4096, n), factor, np.uint64)
            steps[0] = 1
            tables.append(np.cumprod(steps, dtype=np.uint64))
        _power_tables = (tables[0], tables[1])
    powers, inverses = _power_tables
    return powers[:n], inverses[:n]


def _dense(
    codes: NDArray[np.uint64],
    classes: NDArray[np.uint8],
    shared: tuple[float, float, float, float],
    counts: list[int],
) -> NDArray[np.float32]:
    n = max(1, codes.size)
    small = np.minimum(codes, 127).astype(np.int64)
    histogram = np.bincount(small, minlength=128)
    present = histogram[histogram > 0] / n
    entropy = float(-(present * np.log2(present)).sum()) if codes.size else 0.0
    in_word = (classes & _WORD) != 0
    marks = ~in_word & ((classes & _SPACE) == 0)
    n_marks = int(np.count_nonzero(marks))
    gaps = np.flatnonzero(~in_word)
    bounds = np.concatenate([[-1], gaps, [codes.size]])
    longest_word = int(np.diff(bounds).max()) - 1
    n_upper = int(histogram[65:91].sum())
    hidden, look_alikes, decoded, is_decoded = shared
    role, imperative, model, person, links = counts
    per_text = 512.0 / max(512, n)
    return np.array(
        [
            min(1.0, np.log1p(codes.size) / 8),
            min(1.0, 4 * n_marks / n),
            min(1.0, 4 * int(histogram[48:58].sum()) / n),
            min(1.0, 2 * n_upper / n),
            min(1.0, 16 * int(histogram[10]) / n),
            min(1.0, 4 * int(histogram[127]) / n),
            entropy / 6,
            min(1.0, longest_word / 64),
            _densest(marks),
            float(histogram[63] > 0),
            hidden,
            look_alikes,
            decoded,
            is_decoded,
            min(1.0, role / 2),
            min(1.0, imperative * per_text / 4),
            min(1.0, model * per_text / 4),
            min(1.0, person * per_text / 8),
            min(1.0, links / 2),
        ],
        np.float32,
    )


def _densest(marks: NDArray[np.bool_], span: int = 48) -> float:
    """Return the largest share of punctuation in any `span` characters; it is high in suffixes found by search."""
    if marks.size <= span:
        return min(1.0, 2 * int(np.count_nonzero(marks)) / span)
    sums = np.cumsum(marks)
    return min(1.0, 2 * int((sums[span:] - sums[:-span]).max()) / span)
