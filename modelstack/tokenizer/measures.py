"""What a tokenizer costs and saves, as plain functions over encoded documents.

- bytes per token: how much text a step of the model covers. Comparable between vocabularies, unlike loss.
- fertility: tokens per word, and the share of words that stay one token (Rust et al. 2021, arXiv 2012.15613). A
  word is a run of letters and marks, apostrophes inside it included, encoded behind a blank. A run of Chinese or
  Thai is no word: for scripts without blanks read parity instead.
- parity: tokens of a translation over tokens of the original (Petrov et al. 2023, arXiv 2305.15425).
- Rényi efficiency at alpha 2.5 (Zouhar et al. 2023, arXiv 2306.16842): entropy of the tokens' frequencies over the
  largest that the vocabulary allows. It falls when few tokens carry most of the text and when many carry none.
- dead tokens: seen never, or fewer than five times. They follow from the text's size too: compare on one text.
- digits: for numbers of one length, the share that is cut in the most common way; 1 means that a digit's place is
  always found at the same place of the pieces.

Intervals are percentiles of a bootstrap over documents: these were drawn; tokens of one document are alike.
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
"""The order at which Zouhar et al. found the best correlation with translation quality."""
N_RESAMPLES = 1_000
CONFIDENCE = 0.95
RARE = 5
"""Below so many occurrences a token's embedding has hardly been trained."""
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
    """How numbers of one length are cut."""

    model_config = ConfigDict(frozen=True)

    n_digits: int
    pieces: tuple[int, ...]
    """Digits in each token, of the most common way."""
    share: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """N documents under one tokenizer: an entry each."""

    n_bytes: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    n_words: NDArray[np.int64]
    n_word_tokens: NDArray[np.int64]
    n_whole_words: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Encoded:
        """Return some of the documents."""
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
    """Count bytes, tokens and words of each document; a word is encoded once, however often it occurs."""
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
    """Return the words of a text and how often they occur."""
    text = text.encode("utf-8", "replace").decode()
    return Counter(word for word, _ in _word_splitter().pre_tokenize_str(text))


@cache
def _word_splitter() -> pre_tokenizers.PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)


def ratio_interval(above: NDArray[Any], below: NDArray[Any], *, seed: int = 0) -> Interval | None:
    """Return sum over sum with a bootstrap over the entries; None where the divisor is zero.

    Args:
        above: what is counted in each document, [N].
        below: what it is divided by, [N].
        seed: of the resampling.
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
    """Return how often each id occurs, [V]."""
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
    """Return the share of ids, special ones apart, that occur fewer than so many times."""
    ordinary = np.ones(len(counts), dtype=bool)
    ordinary[list(special)] = False
    return float((counts[ordinary] < fewer_than).mean())


def digit_splits(encode: Encode, token_bytes: Sequence[bytes], *, seed: int = 0) -> list[DigitSplit]:
    """Return how random numbers of each length are cut, alone behind a blank."""
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
    """Return how many tokens begin or end inside a character: a stream must hold their bytes back."""

    def is_text(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    return sum(not is_text(data) for data in token_bytes.values())


def embedding_parameters(n_ids: int, width: int, *, tied: bool) -> int:
    """Return V times D for the input, and as much for the output unless both share it."""
    return n_ids * width * (1 if tied else 2)
