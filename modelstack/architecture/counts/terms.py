"""The terms that every count is a sum of: weights, work, cached values, and pairs of tokens.

A block's formula gives the values it stores (`Weights`), its work besides multiplying each token by its matrices
(`Work`: scores and mixes of attention, convolutions, mixing of streams) and its cached values (`Held`). All other
counts follow: a matrix costs two FLOPs per weight and token in the forward pass, four in the backward pass.

Letters: w tokens in a window, m tokens in one compressed entry, k entries selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelstack.architecture.config import ModelConfig

Attention = Literal["full", "causal"]
"""Pairs that are counted. `full`: every query with every available key, the work of a masked kernel and the count
of torch's counter. `causal`: the pairs that the mask allows, nearly the work of a kernel that skips masked blocks.
"""


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of a block, grouped by their cost."""

    matrices: int = 0
    """Weights of matrices that multiply tokens: all that are stored."""
    vectors: int = 0
    """Entries of norms, biases, sinks, and of tables that are looked up or added."""
    idle_matrices: int = 0
    """Part of `matrices`: weights of the experts that a token is not routed to."""
    idle_vectors: int = 0
    """Part of `vectors`: entries of the experts that a token is not routed to."""
    frozen_matrices: int = 0
    """Part of `matrices`: weights without a gradient of the language-modelling loss (a sparse attention's
    indexer).
    """
    occasional_matrices: int = 0
    """Part of `matrices`: weights that only some calls multiply by; `BlockFormula.mixing` counts their work."""
    buffers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Stored tensors that are not parameters: number of entries and bytes per entry, by name."""

    @property
    def total(self) -> int:
        """Number of parameters."""
        return self.matrices + self.vectors

    @property
    def active(self) -> int:
        """Number of parameters that one token's pass reads."""
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
    """FLOPs of a forward pass; a multiply-add counts as two."""

    trained: int = 0
    """FLOPs with a gradient: the backward pass costs twice as many."""
    frozen: int = 0
    """FLOPs without a gradient."""
    training_only: int = 0
    """FLOPs of both passes for work that only training does (the loss of a sparse attention's indexer)."""

    @property
    def forward(self) -> int:
        """FLOPs of the forward pass."""
        return self.trained + self.frozen

    @property
    def backward(self) -> int:
        """FLOPs that training adds: two products per forward product (inputs, weights), and `training_only`."""
        return 2 * self.trained + self.training_only

    def __add__(self, other: Work) -> Work:
        return Work(
            self.trained + other.trained,
            self.frozen + other.frozen,
            self.training_only + other.training_only,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """Numbers that one layer's cache stores for one sequence."""

    values: int = 0
    """Numbers stored in the model's type."""
    fp32: int = 0
    """Numbers stored in fp32 regardless of the model's type (a recurrent state)."""

    def __add__(self, other: Held) -> Held:
        return Held(self.values + other.values, self.fp32 + other.fp32)

    def bytes(self, value_bytes: int) -> int:
        """Return the bytes, with `value_bytes` per number in the model's type."""
        return self.values * value_bytes + self.fp32 * 4


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one call for one sequence: `new` tokens after `past` tokens in the cache."""

    new: int
    past: int = 0
    attention: Attention = "causal"

    def pairs(self, window: int | None = None) -> int:
        """Return the number of (query, key) pairs of attention, in a window of `window` tokens or over all."""
        if self.attention == "full":
            return self.new * (self.new + (self.past if window is None else min(self.past, window - 1)))
        return self._sum(1, window)

    def banded_pairs(self, window: int) -> int:
        """Return the pairs of a kernel that splits queries into bands, each with all rows visible to the band."""
        if self.attention == "causal":
            return self._sum(1, window)
        rows = self.new + min(self.past, window - 1)
        widest = min(window, rows)
        n_bands = -(-self.new // widest)
        n_queries = -(-self.new // n_bands)
        return n_bands * n_queries * (n_queries + widest - 1)

    def compressed_pairs(self, rate: int, top: int | None = None) -> int:
        """Return the pairs of queries and complete windows of `rate` tokens, with at most `top` per query."""
        if self.attention == "full":
            entries = (self.past + self.new) // rate
            return self.new * (entries if top is None else min(entries, top))
        return self._sum(rate, top)

    def _sum(self, rate: int, cap: int | None) -> int:
        return _running_sum(self.past + self.new, rate, cap) - _running_sum(self.past, rate, cap)


def _running_sum(n: int, rate: int, cap: int | None) -> int:
    """Return the sum over p = 1..n of min(p // rate, cap) in closed form, for contexts of a million tokens."""
    if cap is not None and n >= cap * rate:
        return _running_sum(cap * rate - 1, rate, None) + cap * (n - cap * rate + 1)
    whole = n // rate
    return rate * whole * (whole - 1) // 2 + whole * (n - whole * rate + 1)


@dataclass(frozen=True, slots=True)
class BlockFormula:
    """Counts of one kind of block. Each function takes the config and the layer number."""

    weights: Callable[[ModelConfig, int], Weights]
    mixing: Callable[[ModelConfig, int, Span], Work] = lambda config, layer, span: Work()
    """Work besides the matrices that multiply each new token."""
    held: Callable[[ModelConfig, int, int], Held] = lambda config, layer, n_tokens: Held()
    """Cached values after `n_tokens`."""
    read: Callable[[ModelConfig, int, int], Held] | None = None
    """Cached values that one more token reads; None: all."""


def matrix_work(weights: Weights, n_tokens: int) -> Work:
    """Return the products of `n_tokens` with the matrices that apply to all of them, two FLOPs per weight."""
    used = weights.matrices - weights.idle_matrices - weights.occasional_matrices
    return Work(2 * n_tokens * (used - weights.frozen_matrices), 2 * n_tokens * weights.frozen_matrices)


def block_work(formula: BlockFormula, config: ModelConfig, layer: int, span: Span) -> Work:
    """Return all work of one block."""
    return matrix_work(formula.weights(config, layer), span.new) + formula.mixing(config, layer, span)


def norm_weights(config: ModelConfig, size: int | None = None) -> int:
    """Return the number of parameters of one norm over `size` channels (None: D)."""
    return (size or config.hidden_size) * (2 if config.norm_type == "layernorm" else 1)


def sized(value: int | None) -> int:
    """Return `value`, which the config's validation guarantees to be set for its layer types."""
    assert value is not None
    return value
