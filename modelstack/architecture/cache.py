"""Caches of past tokens, for one layer and for the whole model.

Each attention kind creates its own cache with `new_cache`: all keys and values, a window of them, latents,
compressed entries, or a recurrent state. The model's `Cache` counts the tokens once for all layers.

Letters: B batch, H query heads, G KV heads, N tokens of several sequences, R sequences, T new tokens of each, S
tokens held, d channels of a key, e of a value, c of a latent, n and r of the two parts of a query.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

FIRST_CAPACITY = 256
"""Initial capacity of a growing cache in tokens; the capacity doubles when it is full."""


class LayerCache(Protocol):
    """A layer's record of the past tokens."""

    def bytes_in_use(self) -> int:
        """Return the bytes of the stored values, without spare capacity."""
        ...


class RaggedCache(ABC):
    """Keys and values of several sequences of different lengths, whose new tokens form one row of N tokens.

    Only the cache knows which token belongs to which sequence, so it computes the attention itself.
    """

    @abstractmethod
    def attend(
        self,
        q_1HNd: Tensor,
        k_1GNd: Tensor,
        v_1GNe: Tensor,
        *,
        scale: float,
        window: int | None,
        slopes: Sequence[float] | None,
        sinks_H: Tensor | None,
        softcap: float | None,
    ) -> Tensor:
        """Store the new keys and values; return the attention output of the new tokens, [1, H, N, e].

        Args:
            q_1HNd: Queries.
            k_1GNd: New keys, with their positions applied.
            v_1GNe: New values.
            scale: Factor on q.k.
            window: Number of keys that a token sees, including itself; None: all keys up to the token.
            slopes: Factor of each head on the distance to a key, subtracted from the logits (ALiBi).
            sinks_H: A logit per head that contributes to the denominator only.
            softcap: c in c * tanh(logit / c).
        """

    @abstractmethod
    def bytes_in_use(self) -> int:
        """Return the bytes of the memory."""


AttendLatents = Callable[[Tensor, Tensor, Tensor, bool, Tensor | None], Tensor]
"""Attention of sequences with T new tokens each, [R, H, T, e].

Arguments: both parts of the queries, [R, H, T, n] and [R, H, T, r]; latents [R, 1, S, c]; whether each token sees
exactly those up to itself; otherwise a mask [R, 1, T, S], or None if all are seen.
"""


class RaggedLatents(ABC):
    """Latents of several sequences of different lengths, whose new tokens form one row of N tokens.

    The cache separates the sequences, the layer knows what latents mean.
    """

    @abstractmethod
    def attend(self, q_1HNn: Tensor, q_1HNr: Tensor, latents_11Nc: Tensor, attend: AttendLatents) -> Tensor:
        """Store the new latents; return the attention output of the new tokens, [1, H, N, e].

        Args:
            q_1HNn: First part of the queries.
            q_1HNr: Second part of the queries.
            latents_11Nc: New latents.
            attend: Computes the attention of sequences with equally many new tokens.
        """

    @abstractmethod
    def bytes_in_use(self) -> int:
        """Return the bytes of the memory."""


@dataclass(slots=True)
class Cache:
    """Caches of all layers for one batch of sequences of equal length."""

    layers: list[LayerCache]
    n_tokens: int = 0
    """Number of tokens seen so far."""

    def bytes_in_use(self) -> int:
        """Return the bytes stored by all layers."""
        return sum(layer.bytes_in_use() for layer in self.layers)


@dataclass(slots=True)
class GrowingCache:
    """All rows of some tensors along one axis. The buffers double in size, so most appends copy no past rows."""

    buffers: list[Tensor] = field(default_factory=list)
    length: int = 0

    def append(self, *new: Tensor) -> list[Tensor]:
        """Append tensors [B, G, T, *]; return all stored rows, each [B, G, S, *].

        The returned tensors are views, valid until the next append.
        """
        n_new = new[0].shape[2]
        self._make_room(new, self.length + n_new)
        for buffer, rows in zip(self.buffers, new, strict=True):
            buffer[:, :, self.length : self.length + n_new] = rows
        self.length += n_new
        return [buffer[:, :, : self.length] for buffer in self.buffers]

    def bytes_in_use(self) -> int:
        """Return the bytes of the stored rows."""
        return sum(b[:, :, : self.length].nbytes for b in self.buffers)

    def _make_room(self, new: tuple[Tensor, ...], needed: int) -> None:
        capacity = self.buffers[0].shape[2] if self.buffers else 0
        if needed <= capacity:
            return
        capacity = max(FIRST_CAPACITY, 2 * capacity, needed)
        old = self.buffers
        self.buffers = [t.new_empty(*t.shape[:2], capacity, t.shape[3]) for t in new]
        for buffer, past in zip(self.buffers, old, strict=bool(old)):
            buffer[:, :, : self.length] = past[:, :, : self.length]


@dataclass(slots=True)
class WindowCache:
    """Cache of the last `window - 1` rows; with the current token they form the sliding window.

    The buffer holds twice the window, so rows are moved once per `window` tokens instead of at each token.
    """

    window: int
    buffers: list[Tensor] = field(default_factory=list)
    start: int = 0
    end: int = 0

    def append(self, *new: Tensor) -> list[Tensor]:
        """Append tensors [B, G, T, *]; return the rows that the new tokens may attend to, newest last."""
        n_new, kept = new[0].shape[2], self.window - 1
        if n_new > kept or not self.buffers:
            return self._replace(new)
        if self.end + n_new > self.buffers[0].shape[2]:
            for buffer in self.buffers:
                buffer[:, :, : self.end - self.start] = buffer[:, :, self.start : self.end].clone()
            self.start, self.end = 0, self.end - self.start
        for buffer, rows in zip(self.buffers, new, strict=True):
            buffer[:, :, self.end : self.end + n_new] = rows
        seen = [buffer[:, :, self.start : self.end + n_new] for buffer in self.buffers]
        self.end += n_new
        self.start = max(self.start, self.end - kept)
        return seen

    def bytes_in_use(self) -> int:
        """Return the bytes of the rows in the window."""
        return sum(b[:, :, self.start : self.end].nbytes for b in self.buffers)

    def _replace(self, new: tuple[Tensor, ...]) -> list[Tensor]:
        """Append a block longer than the window; return past and new rows, newest last.

        The last `window - 1` rows are copied to new buffers.
        """
        if self.buffers:
            past = [b[:, :, self.start : self.end] for b in self.buffers]
            seen = [torch.cat((p, n), dim=2) for p, n in zip(past, new, strict=True)]
        else:
            seen = list(new)
        kept = min(self.window - 1, seen[0].shape[2])
        self.buffers = [t.new_empty(*t.shape[:2], 2 * self.window, t.shape[3]) for t in seen]
        for buffer, rows in zip(self.buffers, seen, strict=True):
            buffer[:, :, :kept] = rows[:, :, rows.shape[2] - kept :]
        self.start, self.end = 0, kept
        return seen


def repeated(cache: Cache, n: int) -> Cache:
    """Return a copy of a cache for n equal sequences, made from a cache for one."""
    return Cache([_repeated(layer, n) for layer in cache.layers], cache.n_tokens)


def _repeated(part: Any, n: int) -> Any:
    """Return a part of a layer's cache with its first axis repeated from length 1 to n."""
    if isinstance(part, Tensor):
        return part.repeat_interleave(n, dim=0)
    if isinstance(part, list | tuple):
        return type(part)(_repeated(each, n) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        made = copy.copy(part)
        for each in fields(part):
            setattr(made, each.name, _repeated(getattr(part, each.name), n))
        return made
    return part
