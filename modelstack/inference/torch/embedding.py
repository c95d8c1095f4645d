"""Hidden states of given texts, beside the requests of an engine.

Short texts share one row, in which each is a document of its own. A long one is evaluated in chunks, in a cache of
its own that is dropped with it: the engine's blocks stay as they are.

Letters: N texts, T tokens of a chunk, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.cache import Cache
from modelstack.inference.embedding import Pool, groups, stop_if
from modelstack.inference.torch.stream_batch import StreamBatch


def embed(
    batch: StreamBatch,
    texts: Sequence[Sequence[int]],
    adapter: str | None,
    turn: Callable[[], AbstractContextManager[object]],
    cancelled: Callable[[], bool],
) -> NDArray[np.float32]:
    """Return the vectors [N, D] of some texts.

    Args:
        batch: The model with its adapters.
        texts: Tokens of each text.
        adapter: Adapter of all texts.
        turn: Waits for the engine; held while a chunk is evaluated.
        cancelled: Called before each chunk.

    Raises:
        EngineError: It was cancelled, or the engine was closed.
    """
    n_most = batch.queue.limits.max_tokens
    vectors = list[NDArray[np.float32]]()
    for group in groups(texts, n_most, n_most):
        pools = [Pool() for _ in group]
        if len(group) > 1:
            ids = [token for text in group for token in text]
            documents = [number for number, text in enumerate(group) for _ in text]
            stop_if(cancelled)
            with turn():
                states_TD = _states(batch, ids, adapter, documents)
            ends = np.cumsum([len(text) for text in group])
            for pool, states in zip(pools, np.split(states_TD, ends[:-1]), strict=True):
                pool.add(states)
        else:
            cache = batch.model.new_cache()
            for start in range(0, len(group[0]), n_most):
                stop_if(cancelled)
                with turn():
                    pools[0].add(_states(batch, group[0][start : start + n_most], adapter, cache=cache))
        vectors += [pool.vector() for pool in pools]
    return np.stack(vectors)


@torch.no_grad()
def _states(
    batch: StreamBatch,
    ids: Sequence[int],
    adapter: str | None,
    documents: Sequence[int] | None = None,
    cache: Cache | None = None,
) -> NDArray[np.float32]:
    """Return the states after the final norm [T, D]."""
    device = next(batch.model.parameters()).device
    batch.adapters.select_one(adapter, len(ids), device)
    output = batch.model(
        torch.tensor([ids], device=device),
        cache=cache,
        documents_BT=None if documents is None else torch.tensor([documents], device=device),
        with_logits=False,
    )
    return output.hidden_BTD[0].float().cpu().numpy()
