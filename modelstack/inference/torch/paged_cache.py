"""Keys and values in blocks, and attention over sequences that own blocks in any order.

PagedAttention, arXiv 2309.06180. The tokens of a step are one row: linear layers see all of them at once. Only
attention separates the sequences. Those with equally many new tokens form a group, whose blocks are gathered
into a buffer that all layers reuse, and one call of torch's kernel attends for the whole group. Gathering copies
what the kernel then reads, a fifth of attention's time on a CPU. A sequence without a past needs no gathering.
`kv_numbers` says which numbers a block holds.

Slots, groups and masks are equal for all layers and computed once per step, in `StepLayout`.

Letters: N new tokens of all sequences, R sequences of a group, T new tokens of each, S keys of the longest, P
blocks of the longest, B tokens of a block, H query heads, G KV heads, d channels of a key, e of a value, n numbers
of a part, F gathered blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modelstack.architecture.attention.softmax import softmax_attention
from modelstack.architecture.cache import AttendLatents, RaggedCache, RaggedLatents
from modelstack.inference.streams import StepRow
from modelstack.inference.torch.kv_numbers import KVNumbers, LayerNumbers

MAX_FOLDED_QUERIES = 4
"""Maximum number of queries per head whose heads are folded. With one query in each of 8 rows on 128 keys in bf16,
torch's kernel takes 0.18 ms instead of 0.97 (9 heads of 64 on 3, one core of a Zen 5); 16 queries gain nothing.
"""
PIECE_QUERIES = 32
"""Queries per head that attend at once, on a CPU: torch's kernel computes what a causal mask hides.

512 tokens take 5.4 ms in such pieces and 8.2 ms at once (9 heads of 64 on 3, bf16, one core of a Zen 5).
"""
MAX_PADDING = 2
"""Maximum ratio of the longest to the shortest sequence of a group: keys are padded to the longest."""


@dataclass(slots=True)
class RowGroup:
    """Sequences with equally many new tokens, in consecutive places of the step's row."""

    start: int
    """Place of the first token in the row of N tokens."""
    n_rows: int
    n_new: int
    lengths_R: Tensor
    """Number of tokens of each sequence, including the new ones."""
    n_keys: int
    blocks_F: Tensor | None
    """The R * P block numbers, row by row; None: no sequence has a past."""
    is_even: bool
    """Whether all sequences have S tokens."""
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    @property
    def places(self) -> slice:
        """The group's part of the step's row."""
        return slice(self.start, self.start + self.n_rows * self.n_new)

    def is_causal(self, window: int | None) -> bool:
        """Whether each token sees exactly the group's own tokens up to itself."""
        return self.blocks_F is None and (window is None or window >= self.n_new)

    def mask(self, window: int | None) -> Tensor | None:
        """Return the mask, bool [R, 1, T, S], True where a key is seen; None: all keys are seen."""
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def distances(self) -> Tensor:
        """Return the places of the keys relative to the queries, [R, 1, T, S]; negative for earlier keys."""
        new = torch.arange(-self.n_new, 0, device=self.lengths_R.device)
        query = (self.lengths_R[:, None] + new)[:, None, :, None]
        return torch.arange(self.n_keys, device=self.lengths_R.device) - query

    def _make_mask(self, window: int | None) -> Tensor | None:
        if self.n_new == 1 and self.is_even and (window is None or window >= self.n_keys):
            return None
        distances = self.distances()
        seen = distances <= 0
        return seen if window is None else seen & (distances > -window)


class StepLayout:
    """Layout of a step: the slots of its tokens, and the groups whose attention is computed together."""

    def __init__(self, rows: Sequence[StepRow], block_tokens: int, device: torch.device) -> None:
        """Arrange the rows of a step."""
        self.rows = sorted(rows, key=lambda row: (row.n_evaluated, row.start))
        """The rows in the order of their tokens in the step's row."""
        ids = [token for row in self.rows for token in row.ids]
        positions_N = np.concatenate([np.arange(row.start, row.start + row.n_evaluated) for row in self.rows])
        blocks_N = np.array(
            [
                row.stream.table.blocks[place // block_tokens]
                for row in self.rows
                for place in range(row.start, row.start + row.n_evaluated)
            ]
        )
        self.ids_1N = torch.tensor([ids], device=device)
        self.positions_1N = torch.from_numpy(positions_N).to(device)[None]
        self.slots_N = torch.from_numpy(blocks_N * block_tokens + positions_N % block_tokens).to(device)
        self.groups = list(self._grouped(block_tokens, device))

    def last_places(self) -> list[range]:
        """Return the places of each row's last token and its draft in the step's row, in the order of `rows`."""
        ends = itertools.accumulate(row.n_evaluated for row in self.rows)
        return [range(end - 1 - len(row.draft), end) for end, row in zip(ends, self.rows, strict=True)]

    def _grouped(self, block_tokens: int, device: torch.device) -> Iterator[RowGroup]:
        start = 0
        for n_new, several in itertools.groupby(self.rows, key=lambda row: row.n_evaluated):
            rest = list(several)
            while rest:
                shortest = rest[0].start + n_new
                n = next(
                    (n for n, row in enumerate(rest) if row.start + n_new > MAX_PADDING * shortest), len(rest)
                )
                yield _group(rest[:n], start, block_tokens, device)
                start += n * n_new
                rest = rest[n:]


def _group(rows: Sequence[StepRow], start: int, block_tokens: int, device: torch.device) -> RowGroup:
    """Return rows with equally many new tokens, ascending in length, as a group."""
    n_new = rows[0].n_evaluated
    lengths = [row.start + n_new for row in rows]
    longest = lengths[-1]
    blocks = None
    if longest > n_new:
        P = -(-longest // block_tokens)
        numbers = np.empty((len(rows), P), dtype=np.int64)
        for number, row in zip(numbers, rows, strict=True):
            used = row.stream.table.blocks[:P]
            number[: len(used)], number[len(used) :] = used, used[-1]  # never another sequence's blocks
        blocks = torch.from_numpy(numbers.reshape(-1)).to(device)
    return RowGroup(
        start,
        len(rows),
        n_new,
        torch.tensor(lengths, device=device),
        longest,
        blocks,
        is_even=lengths[0] == longest,
    )


@dataclass(slots=True)
class StepMemory:
    """Data shared by all layers of a paged cache: the layout of the step, and the buffers of gathered blocks."""

    n_blocks: int
    block_tokens: int
    layout: StepLayout | None = None
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    def gathered(self, name: str, pool: Tensor, blocks_F: Tensor) -> Tensor:
        """Return some blocks of a pool, [F, B, G, n], in a buffer that the next call with this name overwrites."""
        shape = (len(blocks_F), *pool.shape[1:])
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or len(buffer) < shape[0]
            or buffer.shape[1:] != pool.shape[1:]
            or buffer.dtype != pool.dtype
        ):
            buffer = self._buffers[name] = pool.new_empty(2 * shape[0], *shape[1:])
        return torch.index_select(pool, 0, blocks_F, out=buffer[: shape[0]])


class BlockTensor:
    """Keys or values of one layer, as parts [blocks, B, G, n]; allocated by the first call."""

    def __init__(self, name: str, numbers: KVNumbers, memory: StepMemory) -> None:
        """Start without memory.

        Args:
            name: Name of the buffers of gathered blocks.
            numbers: Numbers of the parts.
            memory: Data shared by all layers.
        """
        self._names = [f"{name} {number}" for number in range(len(numbers.parts()))]
        self._numbers, self._memory = numbers, memory
        self._pools: list[Tensor] = []

    def store(self, x_NGd: Tensor, slots_N: Tensor) -> list[Tensor]:
        """Store new keys or values in slots; return their parts, [N, G, n]."""
        parts = self._numbers.encoded(x_NGd)
        for pool, part in zip(self._allocated(parts), parts, strict=True):
            pool.flatten(0, 1).index_copy_(0, slots_N, part)
        return parts

    def of_group(self, group: RowGroup, new: Sequence[Tensor]) -> Tensor:
        """Return the keys or values of a group's sequences, [R, G, S, d].

        Args:
            group: The group.
            new: Parts of the step's tokens, [N, G, n]: all that a group without a past needs.
        """
        if group.blocks_F is None:
            parts = [part[group.places] for part in new]
        else:
            gathered = zip(self._names, self._pools, strict=True)
            parts = [self._memory.gathered(name, pool, group.blocks_F) for name, pool in gathered]
        x = self._numbers.decoded(parts)
        x_RSGd = x.view(group.n_rows, -1, *x.shape[-2:])
        return x_RSGd[:, : group.n_keys].transpose(1, 2)

    def taken(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return a copy of the parts of some blocks, [blocks, B, G, n]; they were evaluated."""
        assert self._pools, "an evaluation allocated them"
        return [pool[list(blocks)] for pool in self._pools]

    def put(self, blocks: Sequence[int], parts: Sequence[Tensor]) -> None:
        """Fill blocks with parts, which are on the model's device."""
        for pool, part in zip(self._allocated(parts), parts, strict=True):
            pool[list(blocks)] = part

    def bytes_in_use(self) -> int:
        """Return the bytes of the memory, 0 before the first call."""
        return sum(pool.nbytes for pool in self._pools)

    def _allocated(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the pools of parts [..., G, n]."""
        if not self._pools:
            shape = (self._memory.n_blocks, self._memory.block_tokens)
            self._pools = [part.new_zeros(*shape, *part.shape[-2:]) for part in parts]
        return self._pools


class StoredPart(NamedTuple):
    """A tensor [blocks, B, G, n] of a layer's blocks."""

    dtype: torch.dtype
    n_heads: int
    """G."""
    n_numbers: int
    """n."""

    @property
    def token_bytes(self) -> int:
        """Bytes of a token."""
        return self.dtype.itemsize * self.n_heads * self.n_numbers


class PagedLayer(Protocol):
    """The past of one layer in blocks."""

    @property
    def parts(self) -> Sequence[StoredPart]:
        """The tensors that hold a block."""
        ...

    def taken(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return a copy of some blocks, [blocks, B, G, n] of each part."""
        ...

    def put(self, blocks: Sequence[int], parts: Sequence[Tensor]) -> None:
        """Fill blocks with what `taken` returned, on the model's device."""
        ...

    def bytes_in_use(self) -> int:
        """Return the bytes of the memory, 0 before the first call."""
        ...


class PagedCache(RaggedCache):
    """Keys and values of one layer in blocks; a `PagedLayer`."""

    def __init__(self, memory: StepMemory, numbers: LayerNumbers, n_heads: int) -> None:
        """Start without memory; the first call allocates it.

        Args:
            memory: Data shared by all layers.
            numbers: Numbers of keys and values.
            n_heads: G.
        """
        self.parts = [
            StoredPart(dtype, n_heads, n) for dtype, n in (*numbers.keys.parts(), *numbers.values.parts())
        ]
        self._memory, self._numbers = memory, numbers
        self._keys = BlockTensor("keys", numbers.keys, memory)
        self._values = BlockTensor("values", numbers.values, memory)

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
        """Store the new keys and values; return the attention output of the new tokens, [1, H, N, e]."""
        layout = self._memory.layout
        assert layout is not None  # the runner sets it before each step
        new_keys, new_values = (
            stored.store(new[0].transpose(0, 1), layout.slots_N)
            for stored, new in ((self._keys, k_1GNd), (self._values, v_1GNe))
        )
        H = q_1HNd.shape[1]
        folds = k_1GNd.shape[1] < H and slopes is None and sinks_H is None and softcap is None
        in_pieces = slopes is None and q_1HNd.device.type == "cpu"
        outputs: list[Tensor] = []
        for group in layout.groups:
            k, v = self._keys.of_group(group, new_keys), self._values.of_group(group, new_values)
            q = _rows_of(q_1HNd, group).to(k.dtype)
            causal = group.is_causal(window)
            if folds and not causal and group.n_new <= MAX_FOLDED_QUERIES:
                y_RHTe = _folded_attention(q, k, v, scale, group.mask(window))
            elif in_pieces and group.n_new > PIECE_QUERIES:
                y_RHTe = _in_pieces(q, k, v, group.mask(window), scale, sinks_H, softcap)
            else:
                y_RHTe = softmax_attention(
                    q,
                    k,
                    v,
                    scale=scale,
                    mask=None if causal else group.mask(window),
                    causal=causal,
                    bias=None if slopes is None else _alibi(slopes, group),
                    sinks_H=sinks_H,
                    softcap=softcap,
                )
            outputs.append(self._numbers.values.restored(y_RHTe).transpose(1, 2).flatten(0, 1))
        return _joined(outputs).to(q_1HNd.dtype)

    def taken(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return a copy of some blocks: the parts of the keys, then of the values, [blocks, B, G, n] each."""
        return self._keys.taken(blocks) + self._values.taken(blocks)

    def put(self, blocks: Sequence[int], parts: Sequence[Tensor]) -> None:
        """Fill blocks with what `taken` returned, on the model's device."""
        n = len(self._numbers.keys.parts())
        self._keys.put(blocks, parts[:n])
        self._values.put(blocks, parts[n:])

    def bytes_in_use(self) -> int:
        """Return the bytes of the memory, 0 before the first call."""
        return self._keys.bytes_in_use() + self._values.bytes_in_use()


class PagedLatents(RaggedLatents):
    """Latents of one layer in blocks; a `PagedLayer`."""

    def __init__(self, memory: StepMemory, numbers: KVNumbers) -> None:
        """Start without memory; the first call allocates it.

        Args:
            memory: Data shared by all layers.
            numbers: Numbers of a latent.
        """
        self.parts = [StoredPart(dtype, 1, n) for dtype, n in numbers.parts()]
        self._memory = memory
        self._latents = BlockTensor("latents", numbers, memory)

    def attend(self, q_1HNn: Tensor, q_1HNr: Tensor, latents_11Nc: Tensor, attend: AttendLatents) -> Tensor:
        """Store the new latents; return the attention output of the new tokens, [1, H, N, e]."""
        layout = self._memory.layout
        assert layout is not None  # the runner sets it before each step
        new = self._latents.store(latents_11Nc[0].transpose(0, 1), layout.slots_N)
        outputs: list[Tensor] = []
        for group in layout.groups:
            causal = group.is_causal(None)
            y_RHTe = attend(
                _rows_of(q_1HNn, group),
                _rows_of(q_1HNr, group),
                self._latents.of_group(group, new),
                causal,
                None if causal else group.mask(None),
            )
            outputs.append(y_RHTe.transpose(1, 2).flatten(0, 1))
        return _joined(outputs)

    def taken(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return a copy of the parts of some blocks, [blocks, B, 1, n]."""
        return self._latents.taken(blocks)

    def put(self, blocks: Sequence[int], parts: Sequence[Tensor]) -> None:
        """Fill blocks with what `taken` returned, on the model's device."""
        self._latents.put(blocks, parts)

    def bytes_in_use(self) -> int:
        """Return the bytes of the memory, 0 before the first call."""
        return self._latents.bytes_in_use()


def _rows_of(x_1HNd: Tensor, group: RowGroup) -> Tensor:
    """Return a group's part of the step's row, [R, H, T, d]."""
    part = x_1HNd[0, :, group.places]
    return part.unflatten(1, (group.n_rows, group.n_new)).transpose(0, 1)


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """Return the outputs of a step's groups, [tokens, H, e] each, as [1, H, N, e]."""
    y_NHe = outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))
    return y_NHe.transpose(0, 1)[None]


def _in_pieces(
    q_RHTd: Tensor,
    k_RGSd: Tensor,
    v_RGSe: Tensor,
    mask_R1TS: Tensor | None,
    scale: float,
    sinks_H: Tensor | None,
    softcap: float | None,
) -> Tensor:
    """Return the attention output [R, H, T, e], some queries at a time, each piece without the keys after it."""
    T, S = q_RHTd.shape[2], k_RGSd.shape[2]
    pieces: list[Tensor] = []
    for start in range(0, T, PIECE_QUERIES):
        end = min(T, start + PIECE_QUERIES)
        n_keys = S - T + end
        pieces.append(
            softmax_attention(
                q_RHTd[:, :, start:end],
                k_RGSd[:, :, :n_keys],
                v_RGSe[:, :, :n_keys],
                scale=scale,
                mask=None if mask_R1TS is None else mask_R1TS[:, :, start:end, :n_keys],
                sinks_H=sinks_H,
                softcap=softcap,
            )
        )
    return torch.cat(pieces, dim=2)


def _folded_attention(q_RHTd: Tensor, k_RGSd: Tensor, v_RGSe: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Return the attention output [R, H, T, e], with the H / G heads of a KV head as queries of one head."""
    R, H, T, _ = q_RHTd.shape
    G = k_RGSd.shape[1]
    if mask is not None and T > 1:
        mask = mask.repeat(1, 1, H // G, 1)
    folded = q_RHTd.reshape(R, G, H // G * T, -1)
    return F.scaled_dot_product_attention(folded, k_RGSd, v_RGSe, attn_mask=mask, scale=scale).view(R, H, T, -1)


def _alibi(slopes: Sequence[float], group: RowGroup) -> Tensor:
    """Return slope * (key - query), [R, H, T, S]."""
    distances = group.distances()
    return torch.tensor(slopes, device=distances.device)[None, :, None, None] * distances
