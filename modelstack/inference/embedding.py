"""Embeddings of texts by generative models: the final hidden states of a text's tokens, pooled to one vector.

The states are those after the final norm, which the head reads. Mean pooling is the one that needs no training:
the last token of a model that was not trained for it mostly knows what comes next. Vectors have length 1, so that
their product is their cosine. Texts are evaluated in chunks; other requests continue between chunks.

Letters: T tokens of a chunk, D width of the states, N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import ContextWindowError, EngineError, require_token_ids

Pooling = Literal["mean", "last"]


class NoEmbeddingsError(EngineError):
    """The model has no embeddings that this engine computes."""


@runtime_checkable
class EmbeddingEngine(Protocol):
    """The part of an engine that computes embeddings."""

    @property
    def embedding_width(self) -> int:
        """The number D of the vectors."""
        ...

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        *,
        adapter: str | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> NDArray[np.float32]:
        """Return the vectors [N, D] of some texts; each has length 1.

        Args:
            texts: Tokens of each text.
            adapter: Adapter of the model; None: the base model.
            cancelled: Called between chunks; True stops.

        Raises:
            ContextWindowError: a text is longer than the window.
            NoEmbeddingsError: the model has none.
            EngineError: a text is empty or has no such tokens, it was cancelled, or the backend failed.
        """
        ...

    def embedding_suffix(self) -> list[int]:
        """Return the tokens that belong after a text: the end token, where the model was trained with it."""
        ...


class Pool:
    """The vector of one text while its chunks are evaluated."""

    def __init__(self, pooling: Pooling = "mean") -> None:
        """Start without states."""
        self._pooling = pooling
        self._sum_D: NDArray[np.float64] | None = None

    def add(self, states_TD: NDArray[np.float32]) -> None:
        """Add the states of the next tokens."""
        if self._pooling == "last" or self._sum_D is None:
            self._sum_D = np.zeros(states_TD.shape[1])
        self._sum_D += (states_TD[-1:] if self._pooling == "last" else states_TD).sum(axis=0, dtype=np.float64)

    def vector(self) -> NDArray[np.float32]:
        """Return the vector [D], of length 1.

        Raises:
            EngineError: the states are not numbers.
        """
        assert self._sum_D is not None
        length = float(np.linalg.norm(self._sum_D))
        if not (np.isfinite(length) and length > 0):
            raise EngineError("the model's states are not finite; the weights or the adapter are damaged")
        return (self._sum_D / length).astype(np.float32)


def require_texts(texts: Sequence[Sequence[int]], n_vocab: int, limit: int) -> None:
    """Check that texts can be embedded.

    Raises:
        ContextWindowError: one has more than `limit` tokens.
        EngineError: one has no tokens, or others than the vocabulary's.
    """
    for ids in texts:
        require_token_ids(ids, n_vocab)
        if len(ids) > limit:
            raise ContextWindowError(f"the text has {len(ids)} tokens and a text may have {limit}; cut it")


def groups(texts: Sequence[Sequence[int]], n_tokens: int, n_texts: int) -> Iterator[Sequence[Sequence[int]]]:
    """Yield consecutive texts that are evaluated together: at most `n_tokens` tokens, or one longer text."""
    start, total = 0, 0
    for number, ids in enumerate(texts):
        if number > start and (total + len(ids) > n_tokens or number - start == n_texts):
            yield texts[start:number]
            start, total = number, 0
        total += len(ids)
    if start < len(texts):
        yield texts[start:]


def stop_if(cancelled: Callable[[], bool]) -> None:
    """Raise an error where the caller wants no embeddings any more.

    Raises:
        EngineError: it does not.
    """
    if cancelled():
        raise EngineError("the embeddings were cancelled")
