"""Embeddings by llama.cpp, in a second context that is made at the first request.

The context of replies is left alone: its cells, its cached conversations and its batches stay as they are. The
second one has as many cells as the longest text so far needs, and small batches, because llama.cpp reserves logits
for every token of a batch.

Letters: N texts, T tokens of a chunk, D width of the states.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.embedding import NoEmbeddingsError, Pool, Pooling, groups, stop_if
from modelstack.inference.engine import EngineError
from modelstack.inference.llama.batch import DECODE_OK, SequencePart
from modelstack.inference.llama.model import KVType, LlamaContext, LlamaWeights
from modelstack.inference.scoring import SCORED_BATCH

MIN_CELLS = 512
"""Cells of the first context; longer texts double them."""
N_TOGETHER = 16
"""Maximum number of texts of a batch."""
POOLINGS: dict[str, Pooling] = {"": "mean", "0": "mean", "1": "mean", "3": "last"}
"""Pooling by the value of `ARCHITECTURE.pooling_type` in a GGUF file (`enum llama_pooling_type`)."""


class LlamaEmbedder:
    """The owner of the second context."""

    def __init__(
        self,
        weights: LlamaWeights,
        n_most: int,
        kv_type: KVType,
        flash_attention: bool | None,
        threads: Callable[[], tuple[int, int]],
    ) -> None:
        """Prepare without a context.

        Args:
            weights: The model, with its adapter if it has one.
            n_most: Number of tokens that a text may have.
            kv_type: Number format of the cache.
            flash_attention: As for the context of replies.
            threads: Returns the numbers of threads for few tokens and for many.
        """
        self._weights = weights
        self._n_most = n_most
        self._kv_type: KVType = kv_type
        self._flash_attention = flash_attention
        self._threads = threads
        self._context: LlamaContext | None = None
        self._lock = threading.Lock()
        """Held by one group of texts at a time, also between its chunks."""
        self.n_cells = 0
        """KV cells of the context."""

    @property
    def suffix(self) -> list[int]:
        """Tokens that belong after a text."""
        return self._weights.text_end if self._weights.metadata_of_architecture("pooling_type") else []

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        turn: Callable[[], AbstractContextManager[object]],
        cancelled: Callable[[], bool],
    ) -> NDArray[np.float32]:
        """Return the vectors [N, D] of some texts.

        Args:
            texts: Tokens of each text.
            turn: Waits for the engine; held while a chunk is evaluated.
            cancelled: Called before each chunk.

        Raises:
            NoEmbeddingsError: The file's pooling, or attention to later tokens, is not supported.
            EngineError: It was cancelled, the engine was closed, or llama.cpp failed.
        """
        pooling = self._pooling()
        vectors = list[NDArray[np.float32]]()
        for group in groups(texts, SCORED_BATCH, N_TOGETHER):
            with self._lock:
                vectors += self._vectors(group, pooling, turn, cancelled)
        return np.stack(vectors)

    def free(self) -> None:
        """Free the context, in a turn of the engine. Idempotent."""
        if self._context is not None:
            self._context.free()
        self._context, self.n_cells = None, 0

    def _pooling(self) -> Pooling:
        kind = self._weights.metadata_of_architecture("pooling_type")
        if kind not in POOLINGS or self._weights.metadata_of_architecture("attention.causal") == "false":
            raise NoEmbeddingsError(
                "the file is of a model whose tokens see later ones, or whose vector is neither the mean nor the "
                "last of its states; this engine embeds with models that write"
            )
        return POOLINGS[kind]

    def _vectors(
        self,
        group: Sequence[Sequence[int]],
        pooling: Pooling,
        turn: Callable[[], AbstractContextManager[object]],
        cancelled: Callable[[], bool],
    ) -> list[NDArray[np.float32]]:
        pools = [Pool(pooling) for _ in group]
        for start in range(0, max(map(len, group)), SCORED_BATCH):
            stop_if(cancelled)
            with turn():
                context = self._context_of(sum(map(len, group)), is_new=start == 0)
                chunks = [text[start : start + SCORED_BATCH] for text in group]
                parts = [SequencePart(n, start, ids, len(ids)) for n, ids in enumerate(chunks)]
                if (code := context.evaluate_parts(parts)) != DECODE_OK:
                    raise EngineError(f"llama.cpp failed to evaluate a text to embed (code {code})")
                states_TD = context.states(sum(map(len, chunks)))
                ends = np.cumsum([len(ids) for ids in chunks])
                for pool, states in zip(pools, np.split(states_TD, ends[:-1]), strict=True):
                    pool.add(states)
        return [pool.vector() for pool in pools]

    def _context_of(self, n_tokens: int, *, is_new: bool) -> LlamaContext:
        """Return the context with room for some tokens; empty if they are the first ones of a group."""
        if self._context is None or n_tokens > self.n_cells:
            self.free()
            n_cells = MIN_CELLS
            while n_cells < n_tokens:
                n_cells *= 2
            n_cells = max(min(n_cells, self._n_most), SCORED_BATCH)
            self._context = LlamaContext(
                self._weights,
                n_cells=n_cells,
                n_sequences=N_TOGETHER,
                n_batch=SCORED_BATCH,
                kv_type=self._kv_type,
                flash_attention=self._flash_attention,
                has_states=True,
            )
            self._context.set_threads(*self._threads())
            self.n_cells = n_cells
        elif is_new:
            for sequence in range(N_TOGETHER):
                self._context.remove(sequence, 0)
        return self._context
