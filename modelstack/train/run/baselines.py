"""Company for a model's bits per byte: compressors and n-gram models on the same held-out documents.

n-gram models are fitted on the text that the model was trained on, and pay for the bytes that the model pays for:
what is given to it (`modelstack.train.evaluation`) is given to them. A compressor cannot be given a beginning, so
it pays for whole documents, and its bits are divided by all their bytes.

- gzip: raw deflate at level 9 of each document by itself, without the 18 bytes of gzip's header and trailer.
- zstd: each document with the training text as its dictionary: what has been seen before costs a reference to it.
- xz: level 9 of all documents as one stream. They may help each other, as no model's may here.
"""

from __future__ import annotations

import lzma
import math
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from modelstack.errors import UserError
from modelstack.train.evaluation import HeldOut, Score
from modelstack.train.run.ngram import Symbols, fit

BYTE_ORDER = 7
"""The highest that the keys have room for, and on the corpus the best: 1.72 bits, order 6 has 1.81."""
TOKEN_ORDER = 3
ZSTD_LEVEL = 12
"""Level 19 takes 68 s instead of 1 for a dictionary of 23 MB, and saves 0.13 bits a byte."""


class Baseline(BaseModel, frozen=True, extra="forbid"):
    """One figure and what it is of."""

    name: str
    what: str
    bits_per_byte: float = Field(gt=0)
    low: float | None = None
    high: float | None = None
    """95 % interval by a bootstrap over documents; None where these were not told apart."""
    n_bytes: int
    seconds: float


def baselines(
    training: Sequence[str],
    documents: HeldOut,
    *,
    training_ids: Sequence[Symbols] | None = None,
    vocab_size: int = 0,
    byte_order: int = BYTE_ORDER,
    token_order: int = TOKEN_ORDER,
) -> tuple[Baseline, ...]:
    """Return all baselines.

    Args:
        training: The texts that the model was trained on.
        documents: What the model was asked about.
        training_ids: The same texts in the model's tokens, begin token included where there is one: for the
            n-gram model of tokens; None: without that.
        vocab_size: V of these.
        byte_order: Of the n-gram model of bytes.
        token_order: Of that of tokens.

    Raises:
        UserError: There is no training text, or an order is too high.
    """
    whole = [given + scored for given, scored in zip(documents.given, documents.scored, strict=True)]
    data = [text.encode("utf-8", "replace") for text in training]
    if not any(data):
        raise UserError("baselines need the text that the model was trained on; there is none")
    found = [
        _timed("gzip", "deflate level 9, each document alone", lambda: _compressed(whole, _deflated)),
        _stream(whole),
        _timed(
            "zstd, trained",
            f"level {ZSTD_LEVEL}, each document, the training text as dictionary",
            lambda: _compressed(whole, _zstd_after(b"".join(data))),
        ),
        _timed(
            f"{byte_order}-gram, bytes",
            "interpolated modified Kneser-Ney on the training text",
            lambda: byte_ngram(data, documents, byte_order),
        ),
    ]
    if training_ids is not None:
        found.append(
            _timed(
                f"{token_order}-gram, tokens",
                "interpolated modified Kneser-Ney on the training text in the model's tokens",
                lambda: token_ngram(training_ids, vocab_size, documents, token_order),
            )
        )
    return tuple(found)


def byte_ngram(training: Sequence[bytes], documents: HeldOut, order: int) -> Score:
    """Return what an n-gram model of bytes makes of the held-out documents."""
    model = fit((np.frombuffer(text, np.uint8) for text in training), 256, order)
    nats = [
        _nats(model.log2_probabilities(np.frombuffer(given + scored, np.uint8))[len(given) :])
        for given, scored in zip(documents.given, documents.scored, strict=True)
    ]
    return Score(np.array(nats), documents.n_bytes, documents.n_bytes)


def token_ngram(training: Sequence[Symbols], vocab_size: int, documents: HeldOut, order: int) -> Score:
    """Return what an n-gram model of the run's tokens makes of the held-out documents."""
    model = fit(training, vocab_size, order)
    nats = [_nats(model.log2_probabilities(ids)[1:]) for ids in documents.ids]
    return Score(np.array(nats), np.array([len(ids) - 1 for ids in documents.ids]), documents.n_bytes)


def _compressed(documents: Sequence[bytes], size: Callable[[bytes], int]) -> Score:
    nats = np.array([8 * size(document) * math.log(2) for document in documents])
    n_bytes = np.array([len(document) for document in documents], np.int64)
    return Score(nats, n_bytes, n_bytes)


def _deflated(document: bytes) -> int:
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return len(compressor.compress(document) + compressor.flush())


def _zstd_after(training: bytes) -> Callable[[bytes], int]:
    """Return how to compress with a text as dictionary."""
    import zstandard

    dictionary = zstandard.ZstdCompressionDict(training, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    dictionary.precompute_compress(level=ZSTD_LEVEL)
    # No checksum, no size: like deflate's, the figure is of the text alone.
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, dict_data=dictionary, write_checksum=False, write_content_size=False, write_dict_id=False
    )
    return lambda document: len(compressor.compress(document))


def _stream(documents: Sequence[bytes]) -> Baseline:
    started = time.perf_counter()
    data = b"".join(documents)
    size = len(lzma.compress(data, preset=9))
    return Baseline(
        name="xz",
        what="level 9, all documents as one stream",
        bits_per_byte=8 * size / len(data),
        n_bytes=len(data),
        seconds=time.perf_counter() - started,
    )


def _timed(name: str, what: str, score: Callable[[], Score]) -> Baseline:
    started = time.perf_counter()
    found = score()
    interval = found.interval()
    return Baseline(
        name=name,
        what=what,
        bits_per_byte=interval.value,
        low=interval.low,
        high=interval.high,
        n_bytes=int(found.n_bytes.sum()),
        seconds=time.perf_counter() - started,
    )


def _nats(log2_p: NDArray[np.float64]) -> float:
    return float(-log2_p.sum() * math.log(2))
