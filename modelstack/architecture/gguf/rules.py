"""Layout of tensors with Hugging Face's names in a GGUF file: one rule serves both directions.

A rule maps one tensor of ours to one or more stored tensors. `split` makes the stored tensors, `join` is its
inverse. Both only reorder numbers or shift them by a constant. So one table serves reading and writing, and the
shapes in the file follow from it without any values (`stored_shapes`).

Letters: L layers, H heads, d head dim, D model width, I inner width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = tuple[Array, ...]


def _alone(tensor: Array) -> Arrays:
    return (tensor,)


def _only(tensors: Arrays) -> Array:
    return tensors[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """A tensor of ours and the tensors that store it."""

    name: str
    """Hugging Face's name."""
    stored: tuple[str, ...]
    """GGUF's names."""
    split: Callable[[Array], Arrays] = _alone
    join: Callable[[Arrays], Array] = _only
    in_full: bool = False
    """Whether it stays F32 in quantised files: few numbers that selections or scales depend on."""
    holds_experts: bool = False
    """Whether it is a table of expert numbers, not weights."""

    @property
    def keeps_rows(self) -> bool:
        """Whether the stored tensor is the same one, so that some rows of it can be read alone."""
        return self.join is _only

    def stored_shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes of the stored tensors for a tensor of `shape`."""
        return [part.shape for part in self.split(np.broadcast_to(np.float32(0), shape))]


def plain(name: str, stored: str, *, in_full: bool = False) -> Rule:
    """Return the rule for a tensor that is stored unchanged."""
    return Rule(name, (stored,), in_full=in_full)


def shifted(name: str, stored: str) -> Rule:
    """Return the rule for a zero-centred norm's weight: the file holds 1 + weight, which llama.cpp multiplies by.

    The sum is rounded to 32 bits, so a weight is recovered within 1.2e-7, and exactly in later round trips.
    """
    one = np.float32(1)
    return Rule(name, (stored,), lambda w: (w + one,), lambda parts: parts[0] - one)


def pairs_beside_each_other(name: str, stored: str, n_heads: int) -> Rule:
    """Return the rule for rows that rotate: llama.cpp's llama pairs (2j, 2j + 1), transformers (j, j + d/2).

    The order of channels within a head is the same for queries and keys, so their products do not change.
    """

    def split(w: Array) -> Arrays:
        halves = w.reshape(n_heads, 2, -1, *w.shape[1:])
        return (halves.swapaxes(1, 2).reshape(w.shape),)

    def join(parts: Arrays) -> Array:
        pairs = parts[0].reshape(n_heads, -1, 2, *parts[0].shape[1:])
        return pairs.swapaxes(1, 2).reshape(parts[0].shape)

    return Rule(name, (stored,), split, join)


def packed_experts(name: str, stored_gate: str, stored_up: str) -> Rule:
    """Return the rule for [E, 2I, D]: the first half of the rows is the gate."""

    def split(w: Array) -> Arrays:
        half = w.shape[1] // 2
        return w[:, :half], w[:, half:]

    return Rule(name, (stored_gate, stored_up), split, lambda parts: np.concatenate(parts, axis=1))


def interleaved_experts(name: str, stored_gate: str, stored_up: str) -> Rule:
    """Return the rule for gpt-oss's [E, D, 2I], with alternating columns gate and up; or its biases, [E, 2I]."""

    def split(w: Array) -> Arrays:
        gate, up = w[..., 0::2], w[..., 1::2]
        return (gate.swapaxes(1, 2), up.swapaxes(1, 2)) if w.ndim == 3 else (gate, up)

    def join(parts: Arrays) -> Array:
        gate, up = (part.swapaxes(1, 2) for part in parts) if parts[0].ndim == 3 else parts
        return np.stack((gate, up), axis=-1).reshape(*gate.shape[:-1], -1)

    return Rule(name, (stored_gate, stored_up), split, join)


def transposed_experts(name: str, stored: str) -> Rule:
    """Return the rule for gpt-oss's [E, I, D], which multiplies from the right."""
    return Rule(name, (stored,), lambda w: (w.swapaxes(1, 2),), lambda parts: parts[0].swapaxes(1, 2))


def latent_expansion(name: str, stored_k: str, stored_v: str, n_heads: int, n_key_dims: int) -> Rule:
    """Return the rule for [H * (dk + dv), r], keys and values of each head from the latent.

    llama.cpp decodes in the absorbed form: the key part is stored transposed, [H, r, dk], beside [H, dv, r].
    """

    def split(w: Array) -> Arrays:
        by_head = w.reshape(n_heads, -1, w.shape[1])
        return by_head[:, :n_key_dims].swapaxes(1, 2), by_head[:, n_key_dims:]

    def join(parts: Arrays) -> Array:
        k, v = parts
        return np.concatenate((k.swapaxes(1, 2), v), axis=1).reshape(-1, v.shape[2])

    return Rule(name, (stored_k, stored_v), split, join)
