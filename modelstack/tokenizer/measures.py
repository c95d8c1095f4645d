"""Measures of a tokenizer's cost and quality, as plain functions over encoded documents.

- bytes per token: amount of text that a step of the model covers. Comparable between vocabularies, unlike loss.
- fertility: tokens per word, and the share of words that are a single token (Rust et al. 2021, arXiv 2012.15613).
  A word is a run of letters and marks, including apostrophes inside it, encoded after a blank. Runs of Chinese or
  Thai are not words: for scripts without blanks use parity instead.
- parity: tokens of a translation divided by tokens of the original (Petrov et al. 2023, arXiv 2305.15425).
- Rényi efficiency at alpha 2.5 (Zouhar et al. 2023, arXiv 2306.16842): entropy of the tokens' frequencies divided
  by the maximum for the vocabulary. It is low if few tokens cover most of the text or many tokens are unused.
- dead tokens: seen never, or fewer than five times. They also depend on the size of the text: compare on one text.
- digits: for numbers of one length, the share that is split in the most common way; 1 means that a digit's place
  always has the same position within the pieces.

Intervals are percentiles of a bootstrap over documents, because documents were sampled and tokens of one document
are correlated.

Letters: N documents, V ids, D width.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers

ALPHA = 2.5
"""Order with the highest correlation with translation quality in Zouhar et al."""
N_RESAMPLES = 1_000
CONFIDENCE = 0.95
RARE = 5
"""Minimum occurrences of a token that is not rare; a rarer token's embedding is hardly trained."""
DIGIT_LENGTHS = range(1, 10)
NUMBERS_A_LENGTH = 200
_WORD = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
Encode = Callable[[Sequence[str]], list[list[int]]]


class Interval(BaseModel):
    """An estimate with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class DigitSplit(BaseModel):
    """The most common split of numbers of one length."""

    model_config = ConfigDict(frozen=True)

    n_digits: int
    pieces: tuple[int, ...]
    """Number of digits in each token of the most common split."""
    share: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """Counts of N documents under one tokenizer: one entry per document."""

    n_bytes: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    n_words: NDArray[np.int64]
    n_word_tokens: NDArray[np.int64]
    n_whole_words: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Encoded:
        """Return the counts of the selected documents."""
        return Encoded(
            self.n_bytes[chosen],
            self.n_tokens[chosen],
            self.n_words[chosen],
            self.n_word_tokens[chosen],
            self.n_whole_words[chosen],
        )


def count_encoded(
    texts: Sequence[str], words: Sequence[Counter[str]], ids: Sequence[Sequence[int]], encode: Encode
) -> Encoded:
    """Count bytes, tokens and words of each document; each distinct word is encoded only once."""
    vocabulary = sorted(set().union(*words))
    n_tokens_of = dict(zip(vocabulary, map(len, encode([" " + word for word in vocabulary])), strict=True))
    n_word_tokens = [sum(n * n_tokens_of[word] for word, n in counts.items()) for counts in words]
    n_whole = [sum(n for word, n in counts.items() if n_tokens_of[word] == 1) for counts in words]
    rows = (
        [len(text.encode("utf-8", "replace")) for text in texts],
        [len(document) for document in ids],
        [counts.total() for counts in words],
        n_word_tokens,
        n_whole,
    )
    return Encoded(*(np.array(row, dtype=np.int64) for row in rows))


def words_of(text: str) -> Counter[str]:
    """Return the words of a text with their numbers of occurrences."""
    text = text.encode("utf-8", "replace").decode()
    return Counter(word for word, _ in _word_splitter().pre_tokenize_str(text))


@cache
def _word_splitter() -> pre_tokenizers.PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)


def ratio_interval(above: NDArray[Any], below: NDArray[Any], *, seed: int = 0) -> Interval | None:
    """Return the ratio of sums with a bootstrap over the entries; None if the divisor is zero.

    Args:
        above: Numerator of each document, [N].
        below: Divisor of each document, [N].
        seed: Seed of the resampling.
    """
    if below.sum() == 0:
        return None
    rng = np.random.default_rng(seed)
    n = len(above)
    ratios = []
    for _ in range(N_RESAMPLES):
        drawn = rng.integers(n, size=n)
        divisor = below[drawn].sum()
        if divisor:
            ratios.append(above[drawn].sum() / divisor)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Interval(value=float(above.sum() / below.sum()), low=float(low), high=float(high))


def token_counts(ids: Iterable[Sequence[int]], n_ids: int) -> NDArray[np.int64]:
    """Return the number of occurrences of each id, [V]."""
    counts = np.zeros(n_ids, dtype=np.int64)
    for document in ids:
        np.add.at(counts, np.asarray(document, dtype=np.int64), 1)
    return counts


def renyi_efficiency(counts: NDArray[np.int64]) -> float:
    """Return the Rényi entropy of the tokens' frequencies over log V; 0 without text, 1 for equal frequencies."""
    if counts.sum() == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / counts.sum()
    return float(np.log(np.power(shares, ALPHA).sum()) / (1 - ALPHA) / np.log(len(counts)))


def seldom_share(counts: NDArray[np.int64], fewer_than: int, special: Iterable[int]) -> float:
    """Return the share of ids, without special ones, that occur fewer than `fewer_than` times."""
    ordinary = np.ones(len(counts), dtype=bool)
    ordinary[list(special)] = False
    return float((counts[ordinary] < fewer_than).mean())


def digit_splits(encode: Encode, token_bytes: Sequence[bytes], *, seed: int = 0) -> list[DigitSplit]:
    """Return the most common split of random numbers for each length, encoded after a blank."""
    rng = random.Random(seed)
    splits = []
    for length in DIGIT_LENGTHS:
        numbers = [
            rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length) for _ in range(NUMBERS_A_LENGTH)
        ]
        ways = Counter(_digits_in(ids, token_bytes) for ids in encode([f" {number}" for number in numbers]))
        pieces, n = min(ways.items(), key=lambda item: (-item[1], item[0]))
        splits.append(DigitSplit(n_digits=length, pieces=pieces, share=n / NUMBERS_A_LENGTH))
    return splits


def _digits_in(ids: Sequence[int], token_bytes: Sequence[bytes]) -> tuple[int, ...]:
    counts = (sum(48 <= byte < 58 for byte in token_bytes[token]) for token in ids)
    return tuple(n for n in counts if n)


def cuts_characters(token_bytes: Mapping[int, bytes]) -> int:
    """Return the number of tokens that begin or end inside a character; a stream must hold back their bytes."""

    def is_text(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    return sum(not is_text(data) for data in token_bytes.values())


def embedding_parameters(n_ids: int, width: int, *, tied: bool) -> int:
    """Return V times D for the input, and as much for the output unless both are tied."""
    return n_ids * width * (1 if tied else 2)
