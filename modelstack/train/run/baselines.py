"""Baselines for a model's bits per byte: compressors and n-gram models on the same held-out documents.

n-gram models are fitted to the model's training text and are scored on the same bytes as the model: they are given
the same first bytes (`modelstack.train.evaluation`). A compressor cannot be given a beginning, so it is scored on
whole documents.

- gzip: raw deflate at level 9 of each document separately, without the 18 bytes of gzip's header and trailer.
- zstd: each document with the training text as its dictionary, so a passage seen before costs only a reference.
- xz: level 9 of all documents as one stream, in which documents help each other, unlike in a model.
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
"""Maximum order that fits the keys, and the best on the corpus: 1.72 bits, order 6 has 1.81."""
TOKEN_ORDER = 3
ZSTD_LEVEL = 12
"""Compression level. Level 19 takes 68 s instead of 1 for a dictionary of 23 MB, and saves 0.13 bits per byte."""


class Baseline(BaseModel, frozen=True, extra="forbid"):
    """Result of one baseline."""

    name: str
    what: str
    bits_per_byte: float = Field(gt=0)
    low: float | None = None
    high: float | None = None
    """95 % interval from a bootstrap over documents, from `low` to here; None if documents are not separable."""
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
        documents: The held-out documents that the model was scored on.
        training_ids: The same texts in the model's tokens, including the begin token if there is one, for the
            n-gram model of tokens; None: skip that model.
        vocab_size: V of these tokens.
        byte_order: Order of the n-gram model of bytes.
        token_order: Order of the n-gram model of tokens.

    Raises:
        UserError: There is no training text, or an order is too high.
    """
    whole = [given + scored for given, scored in zip(documents.given, documents.scored, strict=True)]
    data = [text.encode("utf-8", "replace") for text in training]
    if not any(data):
        raise UserError("baselines require the text that the model was trained on, but there is none")
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
    """Return the score of an n-gram model of bytes on the held-out documents."""
    model = fit((np.frombuffer(text, np.uint8) for text in training), 256, order)
    nats = [
        _nats(model.log2_probabilities(np.frombuffer(given + scored, np.uint8))[len(given) :])
        for given, scored in zip(documents.given, documents.scored, strict=True)
    ]
    return Score(np.array(nats), documents.n_bytes, documents.n_bytes)


def token_ngram(training: Sequence[Symbols], vocab_size: int, documents: HeldOut, order: int) -> Score:
    """Return the score of an n-gram model of the run's tokens on the held-out documents."""
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
    """Return a function from a document to its compressed size with `training` as dictionary."""
    import zstandard

    dictionary = zstandard.ZstdCompressionDict(training, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    dictionary.precompute_compress(level=ZSTD_LEVEL)
    # No checksum and no size fields: as for deflate, only the text counts.
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
