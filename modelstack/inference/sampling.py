"""Sampling of one token from the legal part of a distribution, with probabilities before and after the mask.

The filters are applied in this order: mask, temperature, top-k, top-p, min-p, as in vLLM and transformers
(llama.cpp applies the temperature last). Log-probabilities are always those at temperature 1, so that they are
comparable under any sampling. The "full" one is over the whole vocabulary and the "masked" one over the legal
tokens.

The cost is one pass of exp over V floats and some cheaper ones, about 0.07 ms at V = 49,152. If a grammar leaves
few tokens, only those are processed again.

Letters: V vocabulary size, N legal tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import ChoicePoint, EngineError, SamplingParams, TopLogprobs
from modelstack.inference.grammar import TokenMask
from modelstack.inference.legal_tokens import LegalTokens

TINY_MASS = 1e-20
"""Mass of the legal tokens, relative to the best token, below which float32 loses their digits."""
BLOCK = 256
"""Number of weights summed together in the first of the two steps of `_draw_index`."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sampled token."""

    token: int
    logprob: float
    """Natural log of its share of the full softmax at temperature 1."""
    masked_logprob: float
    """Natural log of its share of the softmax over the legal tokens."""
    n_legal: int
    log_sum: float
    """Natural log of the sum of exp over all logits: a logit less this is a log-probability."""


class Sampler:
    """Draws tokens under one set of parameters; owns the random stream and the scratch memory."""

    def __init__(self, n_vocab: int, params: SamplingParams, rng: np.random.Generator) -> None:
        """Check `params` and allocate scratch memory for `n_vocab` logits.

        Raises:
            EngineError: a parameter is outside its range.
        """
        _check(params)
        self._params = params
        self._rng = rng
        self._scratch_V = np.empty(n_vocab, dtype=np.float32)

    def draw(self, logits_V: NDArray[np.float32], legal: LegalTokens, decision: TokenMask | None = None) -> Drawn:
        """Draw one of `legal` from `logits_V`, which is not changed.

        Greedy sampling takes the most probable token. If a `decision` falls here, only tokens of the side with
        more mass are considered: a call begins with one token and an answer with any of thousands, so the most
        probable token may belong to the less probable side.

        Raises:
            EngineError: nothing is legal, or the logits are not numbers.
        """
        weights, log_sum, legal_log_sum = self._weighed(logits_V, legal)
        if self._params.temperature == 0:
            index = int((weights if decision is None else _heavier(weights, legal, decision)).argmax())
        else:
            index = int(weights.argmax())
            index = self._sample(weights, logits_V, legal, float(logits_V[_token_at(index, legal)]))
        return _drawn(_token_at(index, legal), logits_V, legal, log_sum, legal_log_sum)

    def judged(self, token: int, logits_V: NDArray[np.float32], legal: LegalTokens) -> Drawn:
        """Return a token, drawn from any distribution, with the probabilities that `logits_V` give it.

        Raises:
            EngineError: as for `draw`.
        """
        _, log_sum, legal_log_sum = self._weighed(logits_V, legal)
        return _drawn(token, logits_V, legal, log_sum, legal_log_sum)

    def choice_point(self, logits_V: NDArray[np.float32], legal: LegalTokens, step: int) -> ChoicePoint:
        """Return the whole distribution over `legal` at temperature 1, as a copy."""
        ids = legal.to_ids()
        values = logits_V.take(ids).astype(np.float64)
        weights = np.exp(values - values.max())
        return ChoicePoint(
            step=step,
            token_ids=ids.astype(np.int32),
            probabilities=(weights / weights.sum()).astype(np.float32),
        )

    def _weighed(
        self, logits_V: NDArray[np.float32], legal: LegalTokens
    ) -> tuple[NDArray[np.float32], float, float]:
        """Return the weights of the legal tokens, and the log-sums over all and over the legal tokens."""
        if legal.count == 0:
            raise EngineError("the grammar leaves no legal token here: it is at a dead end")
        top = float(logits_V.max())
        if not math.isfinite(top):
            raise EngineError("the model's logits are not finite; the weights or the adapter are damaged")
        exp_V = self._exp_shifted(logits_V, top)
        log_sum = top + math.log(float(exp_V.sum()))
        weights, legal_top = _restricted(exp_V, legal), top
        mass = float(weights.sum())
        if mass < TINY_MASS:  # too improbable for float32: shift by the best legal logit instead
            legal_top = float(logits_V[legal.to_ids()].max())
            weights = _restricted(self._exp_shifted(logits_V, legal_top), legal)
            mass = float(weights.sum())
        return weights, log_sum, legal_top + math.log(mass)

    def _exp_shifted(
        self, logits_V: NDArray[np.float32], top: float, temperature: float = 1.0
    ) -> NDArray[np.float32]:
        """Return exp((logits - top) / temperature) in scratch memory, 1 for logits above `top`."""
        out = self._scratch_V
        np.subtract(logits_V, np.float32(top), out=out)
        if temperature != 1:
            out *= np.float32(1 / temperature)
        if top < logits_V.max():
            np.minimum(out, np.float32(0), out=out)  # illegal ones would overflow; they are dropped later
        return np.exp(out, out=out)

    def _sample(
        self, weights: NDArray[np.float32], logits_V: NDArray[np.float32], legal: LegalTokens, legal_top: float
    ) -> int:
        """Return an index into `weights`, which hold the legal tokens' shares at temperature 1."""
        params = self._params
        if params.temperature != 1:
            weights = _restricted(self._exp_shifted(logits_V, legal_top, params.temperature), legal)
        kept = filtered(weights, params)
        uniform = self._rng.random()
        if kept is None:
            return _draw_index(weights, uniform)
        return int(kept[_draw_index(weights[kept], uniform)])


def _restricted(values_V: NDArray[np.float32], legal: LegalTokens) -> NDArray[np.float32]:
    """Return the N legal values for an id list; for flags all V values, with 0 for the illegal ones."""
    if legal.ids is not None:
        return values_V.take(legal.ids)
    assert legal.illegal_V is not None
    np.copyto(values_V, np.float32(0), where=legal.illegal_V)
    return values_V


def _drawn(
    token: int, logits_V: NDArray[np.float32], legal: LegalTokens, log_sum: float, legal_log_sum: float
) -> Drawn:
    logit = float(logits_V[token])
    return Drawn(token, logit - log_sum, min(0.0, logit - legal_log_sum), legal.count, log_sum)


def most_probable(logits_V: NDArray[np.float32], n: int, log_sum: float) -> TopLogprobs:
    """Return the `n` most probable tokens at temperature 1; of equal ones those with the lowest ids.

    Tokens of probability 0 are left out. The cost is one partition of V floats.
    """
    n = min(n, logits_V.size)
    ids = np.flatnonzero(logits_V >= np.partition(logits_V, -n)[-n])
    best = ids[np.argsort(-logits_V[ids], kind="stable")[:n]]
    return tuple((int(token), float(logits_V[token]) - log_sum) for token in best if logits_V[token] > -np.inf)


def _token_at(index: int, legal: LegalTokens) -> int:
    return index if legal.ids is None else int(legal.ids[index])


def filtered(weights: NDArray[np.float32], params: SamplingParams) -> NDArray[np.intp] | None:
    """Return the indices that top-k, top-p and min-p keep; None for all.

    top-p keeps the smallest set of most probable tokens whose share of the mass after top-k reaches p, including
    the token that crosses p (Holtzman et al., arXiv 1904.09751). min-p: arXiv 2407.01082.
    """
    kept: NDArray[np.intp] | None = None
    if 0 < params.top_k < weights.size:
        kept = np.argpartition(weights, weights.size - params.top_k)[-params.top_k :]
    if params.top_p < 1:
        kept = _nucleus(weights, kept, params.top_p)
    if params.min_p > 0:
        pool = np.arange(weights.size) if kept is None else kept
        kept = pool[weights[pool] >= params.min_p * float(weights.max())]
    return kept


def _nucleus(weights: NDArray[np.float32], kept: NDArray[np.intp] | None, top_p: float) -> NDArray[np.intp]:
    pool = weights if kept is None else weights[kept]
    total = float(pool.sum())
    # All tokens with a share of at most (1 - p) / N have less than 1 - p together: none is in the nucleus.
    heavy = np.flatnonzero(pool >= (1 - top_p) * total / pool.size)
    order = heavy[np.argsort(-pool[heavy], kind="stable")]
    mass = np.cumsum(pool[order], dtype=np.float64)
    nucleus = order[: int(np.searchsorted(mass, top_p * total)) + 1]
    return nucleus if kept is None else kept[nucleus]


def _draw_index(weights: NDArray[np.float32], uniform: float) -> int:
    """Return the index at the share `uniform` of the cumulated weights; found by blocks, then inside one."""
    starts = np.arange(0, weights.size, BLOCK)
    block_mass = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    target = uniform * block_mass[-1]
    block = min(int(np.searchsorted(block_mass, target, side="right")), starts.size - 1)
    inside = weights[starts[block] : starts[block] + BLOCK]
    mass = np.cumsum(inside, dtype=np.float64)
    rest = target - (block_mass[block - 1] if block else 0.0)
    index = int(np.searchsorted(mass, rest, side="right"))
    if index >= inside.size or inside[index] == 0:  # rounding put the target past the last token with a weight
        index = int(np.flatnonzero(inside)[-1])
    return int(starts[block]) + index


def _check(params: SamplingParams) -> None:
    if not (math.isfinite(params.temperature) and params.temperature >= 0):
        raise EngineError(f"temperature must be 0 (greedy) or more, not {params.temperature}")
    if params.top_k < 0:
        raise EngineError(f"top_k must be 0 (off) or more, not {params.top_k}")
    if not 0 < params.top_p <= 1:
        raise EngineError(f"top_p must be in (0, 1], not {params.top_p}")
    if not 0 <= params.min_p <= 1:
        raise EngineError(f"min_p must be in [0, 1], not {params.min_p}")


def _heavier(weights: NDArray[np.float32], legal: LegalTokens, decision: TokenMask) -> NDArray[np.float32]:
    """Return the weights, with 0 for the side of a decision that has less mass."""
    flags = np.unpackbits(decision.view(np.uint8), bitorder="little").view(np.bool_)
    inside = flags[: weights.size] if legal.ids is None else flags[legal.ids]
    one_side = np.where(inside, weights, np.float32(0))
    return one_side if 2 * one_side.sum() > weights.sum() else weights - one_side
