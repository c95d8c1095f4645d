"""The terms that every count is a sum of: weights, work, values held in a cache, and pairs of tokens.

A block's formula says what it stores (`Weights`), what it computes beside multiplying each token by its matrices
(`Work`: scores and mixes of attention, convolutions, mixing of streams) and what it remembers (`Held`). All else
follows: a matrix costs two FLOPs a weight and token forward, four backward.

Letters: w tokens in a window, m tokens in one compressed entry, k entries chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelstack.architecture.config import ModelConfig

Attention = Literal["full", "causal"]
"""`full`: every query with every key on offer, what a masked kernel computes and torch's counter counts; `causal`:
the pairs that the mask lets through, what a kernel that skips masked blocks comes near."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of a block, by what they cost."""

    matrices: int = 0
    """Of matrices that multiply tokens: all that are stored."""
    vectors: int = 0
    """Norms, biases, sinks, tables that are looked up or added."""
    idle_matrices: int = 0
    """Of `matrices`: in the experts that a token is not sent to."""
    idle_vectors: int = 0
    """Of `vectors`, likewise."""
    frozen_matrices: int = 0
    """Of `matrices`: no gradient of the language-modelling loss reaches them (a sparse attention's indexer)."""
    occasional_matrices: int = 0
    """Of `matrices`: not every call multiplies its tokens by them; `BlockFormula.mixing` knows when."""
    buffers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """What is stored but is no parameter: entries and bytes of each, by name."""

    @property
    def total(self) -> int:
        """Return all parameters."""
        return self.matrices + self.vectors

    @property
    def active(self) -> int:
        """Return the parameters that one token's pass reads."""
        return self.total - self.idle_matrices - self.idle_vectors

    def __add__(self, other: Weights) -> Weights:
        buffers = dict(self.buffers)
        for name, (entries, entry_bytes) in other.buffers.items():
            buffers[name] = (buffers.get(name, (0, 0))[0] + entries, entry_bytes)
        return Weights(
            self.matrices + other.matrices,
            self.vectors + other.vectors,
            self.idle_matrices + other.idle_matrices,
            self.idle_vectors + other.idle_vectors,
            self.frozen_matrices + other.frozen_matrices,
            self.occasional_matrices + other.occasional_matrices,
            buffers,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a forward pass; a multiply-add is two."""

    trained: int = 0
    """Of what has a gradient: the backward pass costs twice as much."""
    frozen: int = 0
    """Of what has none."""
    training_only: int = 0
    """FLOPs of both passes of what only training computes (the loss of a sparse attention's indexer)."""

    @property
    def forward(self) -> int:
        """Return the FLOPs of the forward pass."""
        return self.trained + self.frozen

    @property
    def backward(self) -> int:
        """Return what training adds: two products for each one, for inputs and weights, and what is its alone."""
        return 2 * self.trained + self.training_only

    def __add__(self, other: Work) -> Work:
        return Work(
            self.trained + other.trained,
            self.frozen + other.frozen,
            self.training_only + other.training_only,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """Numbers that one layer's cache holds for one sequence."""

    values: int = 0
    """In the model's type."""
    fp32: int = 0
    """In fp32 whatever the model's type (a recurrent state)."""

    def __add__(self, other: Held) -> Held:
        return Held(self.values + other.values, self.fp32 + other.fp32)

    def bytes(self, value_bytes: int) -> int:
        """Return the bytes at `value_bytes` a value."""
        return self.values * value_bytes + self.fp32 * 4


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one call for one sequence: `new` behind `past` that the cache holds."""

    new: int
    past: int = 0
    attention: Attention = "causal"

    def pairs(self, window: int | None = None) -> int:
        """Return how many (query, key) pairs attention computes, in a window of `window` tokens or over all."""
        if self.attention == "full":
            return self.new * (self.new + (self.past if window is None else min(self.past, window - 1)))
        return self._sum(1, window)

    def banded_pairs(self, window: int) -> int:
        """Return the pairs of a kernel that cuts a window into bands of queries, each with all rows it may see."""
        if self.attention == "causal":
            return self._sum(1, window)
        rows = self.new + min(self.past, window - 1)
        widest = min(window, rows)
        n_bands = -(-self.new // widest)
        n_queries = -(-self.new // n_bands)
        return n_bands * n_queries * (n_queries + widest - 1)

    def compressed_pairs(self, rate: int, top: int | None = None) -> int:
        """Return the pairs of queries and complete windows of `rate` tokens, the best `top` of them or all."""
        if self.attention == "full":
            entries = (self.past + self.new) // rate
            return self.new * (entries if top is None else min(entries, top))
        return self._sum(rate, top)

    def _sum(self, rate: int, cap: int | None) -> int:
        return _running_sum(self.past + self.new, rate, cap) - _running_sum(self.past, rate, cap)


def _running_sum(n: int, rate: int, cap: int | None) -> int:
    """Return the sum over p = 1..n of min(p // rate, cap), closed: a context has a million tokens."""
    if cap is not None and n >= cap * rate:
        return _running_sum(cap * rate - 1, rate, None) + cap * (n - cap * rate + 1)
    whole = n // rate
    return rate * whole * (whole - 1) // 2 + whole * (n - whole * rate + 1)


@dataclass(frozen=True, slots=True)
class BlockFormula:
    """What one kind of block costs. Each function takes the config and the layer's number."""

    weights: Callable[[ModelConfig, int], Weights]
    mixing: Callable[[ModelConfig, int, Span], Work] = lambda config, layer, span: Work()
    """Work beside the matrices that multiply each new token."""
    held: Callable[[ModelConfig, int, int], Held] = lambda config, layer, n_tokens: Held()
    """What the cache holds behind `n_tokens`."""
    read: Callable[[ModelConfig, int, int], Held] | None = None
    """What one further token reads of it; None: all."""


def matrix_work(weights: Weights, n_tokens: int) -> Work:
    """Return the products of `n_tokens` with the matrices that serve them all, two FLOPs a weight."""
    used = weights.matrices - weights.idle_matrices - weights.occasional_matrices
    return Work(2 * n_tokens * (used - weights.frozen_matrices), 2 * n_tokens * weights.frozen_matrices)


def block_work(formula: BlockFormula, config: ModelConfig, layer: int, span: Span) -> Work:
    """Return all work of one block."""
    return matrix_work(formula.weights(config, layer), span.new) + formula.mixing(config, layer, span)


def norm_weights(config: ModelConfig, size: int | None = None) -> int:
    """Return the parameters of one norm over `size` channels (None: D)."""
    return (size or config.hidden_size) * (2 if config.norm_type == "layernorm" else 1)


def sized(value: int | None) -> int:
    """Return a size that the config holds for the layer types that need it (it checks that it is given)."""
    assert value is not None
    return value
