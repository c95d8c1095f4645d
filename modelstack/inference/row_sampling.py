"""Sampling for many rows at once: one token per row from the whole distribution, with its log-probability.

For rollouts. A policy gradient belongs to the distribution that was sampled from, so there is no top-k, top-p or
min-p, and the log-probabilities are at the sampling temperature. (`sampling` draws one token with all filters.)

Tokens are found by inverting the cumulated distribution at a given number in [0, 1), in two steps: first among
blocks of the vocabulary, then inside a block. The cost is one pass of exp and one of sums in float32 over R V
numbers. Sums over blocks are float64, so a token's probability is accurate to about 1e-6.

Letters: R rows, V vocabulary size, K blocks of it, W tokens of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError

BLOCK = 256
"""The number W: about the square root of a vocabulary size."""


def draw_rows(
    logits_RV: NDArray[np.float32], temperature: float, uniform_R: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return a token of each row and its log-probability, [R]; the logits are not changed.

    Args:
        logits_RV: The logits of the model.
        temperature: Divisor of the logits; 0 takes the most probable token, with its log-probability at 1.
        uniform_R: Numbers in [0, 1) that select the tokens; not read at temperature 0.

    Raises:
        EngineError: a row has no finite largest logit.
    """
    rows_R = np.arange(len(logits_RV))
    top_R = logits_RV.max(axis=1)
    if not np.isfinite(top_R).all():
        raise EngineError("the model's logits are not finite; the weights or the adapter are damaged")
    shifted_RV = logits_RV - top_R[:, None]
    if temperature not in (0, 1):
        shifted_RV *= np.float32(1 / temperature)
    weights_RV = np.exp(shifted_RV)
    starts_K = np.arange(0, weights_RV.shape[1], BLOCK)
    mass_RK = np.add.reduceat(weights_RV, starts_K, axis=1).cumsum(axis=1, dtype=np.float64)
    tokens_R = logits_RV.argmax(axis=1) if temperature == 0 else _inverted(weights_RV, mass_RK, uniform_R)
    return tokens_R, shifted_RV[rows_R, tokens_R].astype(np.float64) - np.log(mass_RK[:, -1])


def _inverted(
    weights_RV: NDArray[np.float32], mass_RK: NDArray[np.float64], uniform_R: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the index in each row at which the cumulated weights exceed the row's share of their sum."""
    n_vocab = weights_RV.shape[1]
    rows_R = np.arange(len(weights_RV))
    target_R = uniform_R * mass_RK[:, -1]
    # Rounding may put the target at the very end: the last block with a weight is the limit.
    last_R = (mass_RK < mass_RK[:, -1:]).sum(axis=1)
    block_R = np.minimum((mass_RK <= target_R[:, None]).sum(axis=1), last_R)
    rest_R = target_R - np.where(block_R > 0, mass_RK[rows_R, block_R - 1], 0.0)
    ids_RW = block_R[:, None] * BLOCK + np.arange(BLOCK)
    inside_RW = np.where(ids_RW < n_vocab, weights_RV[rows_R[:, None], np.minimum(ids_RW, n_vocab - 1)], 0.0)
    index_R = (inside_RW.cumsum(axis=1, dtype=np.float64) <= rest_R[:, None]).sum(axis=1)
    last_weight_R = BLOCK - 1 - (inside_RW[:, ::-1] > 0).argmax(axis=1)
    return block_R * BLOCK + np.minimum(index_R, last_weight_R)
