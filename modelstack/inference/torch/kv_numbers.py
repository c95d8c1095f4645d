"""Numbers that cached keys and values are stored in: the model's own, int8, or values in 4 bits.

Each token is rounded once, when it is stored, and has its own scales. Its stored bytes depend neither on the batch
nor on the chunk, so a block can be shared, preempted and kept on disk like any other. Attention reads the rounded
numbers of new tokens too, so a reply is the same whether its prompt was cached or not.

Values take 4 bits once an orthogonal matrix has spread each channel over its head (QuaRot, arXiv 2404.00456);
attention's output is multiplied by its inverse. Keys keep 8 bits: they have few large channels, and the softmax
turns an error of a key into a factor on its weight. "k8v4" is TurboQuant's name for this choice.

Letters: N tokens, G KV heads, d channels of a head, n numbers of a part, g groups of a head, c channels of one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.inference.engine import EngineError

KVType = Literal["model", "int8", "k8v4"]

GROUP_CHANNELS = 32
"""Channels with one scale; heads that do not divide into such groups are one group."""
SMALLEST_ROTATION = 8
"""Minimum number of channels that are rotated together: fewer do not even out."""
_SCALE_TYPE = torch.bfloat16
"""Has the range of fp32; codes are computed with the rounded scale, so its few digits cost no precision."""
_SMALLEST_SCALE = 1e-30
"""Scale of a group of zeros."""


class KVNumbers(ABC):
    """Numbers of the keys or values of a layer. A tensor is stored as parts, such as codes and scales."""

    @abstractmethod
    def parts(self) -> Sequence[tuple[torch.dtype, int]]:
        """Return number type and n of each part, per token and head."""

    @abstractmethod
    def encoded(self, x_NGd: Tensor) -> list[Tensor]:
        """Return the parts of keys or values, [N, G, n] each."""

    @abstractmethod
    def decoded(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what attention reads, [..., d], from parts [..., n]."""

    def restored(self, y: Tensor) -> Tensor:
        """Return attention's output [..., d] over decoded values as that over the values themselves."""
        return y


@dataclass(frozen=True, slots=True)
class LayerNumbers:
    """Numbers of a layer."""

    keys: KVNumbers
    values: KVNumbers


def layer_numbers(model: CausalLM, kv_type: KVType) -> LayerNumbers:
    """Return the numbers of each layer of a model.

    Raises:
        EngineError: There is no such type, or it cannot hold the model's heads.
    """
    weight, d = next(model.parameters()), model.config.head_dim
    # Attention on a CPU is as fast in fp32 as in bf16, and decoding into fp32 is faster.
    dtype = torch.promote_types(weight.dtype, torch.float32) if weight.device.type == "cpu" else weight.dtype
    match kv_type:
        case "model":
            return LayerNumbers(ModelNumbers(d, weight.dtype), ModelNumbers(d, weight.dtype))
        case "int8":
            return LayerNumbers(Int8Numbers(d, dtype), Int8Numbers(d, dtype))
        case "k8v4":
            return LayerNumbers(Int8Numbers(d, dtype), RotatedInt4Numbers(d, dtype, weight.device))
        case _:
            raise EngineError(f"kv_type {kv_type!r} is not known; choose one of {', '.join(get_args(KVType))}")


def latent_numbers(model: CausalLM, kv_type: KVType) -> KVNumbers:
    """Return the numbers of the latents of a model with latent attention.

    Raises:
        EngineError: There is no such type for latents.
    """
    config, weight = model.config, next(model.parameters())
    assert config.kv_lora_rank and config.qk_rope_head_dim
    n = config.kv_lora_rank + config.qk_rope_head_dim
    match kv_type:
        case "model":
            return ModelNumbers(n, weight.dtype)
        case "int8":
            return Int8Numbers(n, weight.dtype)
        case _:
            raise EngineError(
                f"kv_type {kv_type!r} stores values apart from keys, and the model's latents are both; "
                f"use 'model' or 'int8'"
            )


class ModelNumbers(KVNumbers):
    """The model's own numbers."""

    def __init__(self, head_dim: int, dtype: torch.dtype) -> None:
        """Set the channels of a head, and the number type."""
        self._part = (dtype, head_dim)

    def parts(self) -> Sequence[tuple[torch.dtype, int]]:
        """Return type and channels."""
        return [self._part]

    def encoded(self, x_NGd: Tensor) -> list[Tensor]:
        """Return the tensor in the type of the numbers."""
        return [x_NGd.to(self._part[0])]

    def decoded(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the tensor."""
        return parts[0]


class Int8Numbers(KVNumbers):
    """int8 with a bf16 scale per group: 8.5 bits per channel. The largest channel of a group is 127."""

    def __init__(self, head_dim: int, dtype: torch.dtype) -> None:
        """Set the channels of a head, and the number type of decoded tensors."""
        self._head_dim, self._n_groups, self._dtype = head_dim, _n_groups(head_dim), dtype

    def parts(self) -> Sequence[tuple[torch.dtype, int]]:
        """Return those of codes and scales."""
        return [(torch.int8, self._head_dim), (_SCALE_TYPE, self._n_groups)]

    def encoded(self, x_NGd: Tensor) -> list[Tensor]:
        """Return codes and scales."""
        x_NGgc = _wide(x_NGd).unflatten(-1, (self._n_groups, -1))
        scales_NGg = _scale(torch.linalg.vector_norm(x_NGgc, torch.inf, -1) / 127)
        codes = (x_NGgc / scales_NGg[..., None]).round_()  # 127.25 at most
        return [codes.flatten(-2).to(torch.int8), scales_NGg]

    def decoded(self, parts: Sequence[Tensor]) -> Tensor:
        """Return codes times scales."""
        codes, scales = parts
        x = codes.float()
        x.unflatten(-1, (self._n_groups, -1)).mul_(scales.float()[..., None])
        return x.to(self._dtype)


class RotatedInt4Numbers(KVNumbers):
    """4 bits of rotated channels, with step and least value of each group in bf16; two codes in a byte."""

    def __init__(self, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        """Set the sizes.

        Args:
            head_dim: Channels of a head.
            dtype: Number type of decoded tensors.
            device: Device of the tensors.

        Raises:
            EngineError: Too few channels can be rotated together.
        """
        n_rotated = head_dim & -head_dim  # the largest power of two that divides it
        if n_rotated < SMALLEST_ROTATION:
            raise EngineError(
                f"kv_type 'k8v4' rotates channels in blocks of a power of two, at least {SMALLEST_ROTATION}; "
                f"heads of {head_dim} channels divide into blocks of {n_rotated}: use kv_type 'int8'"
            )
        self._head_dim, self._n_groups, self._dtype = head_dim, _n_groups(head_dim), dtype
        self._rotation = hadamard(n_rotated).to(device)

    def parts(self) -> Sequence[tuple[torch.dtype, int]]:
        """Return those of codes, steps and least values."""
        return [(torch.uint8, self._head_dim // 2), *[(_SCALE_TYPE, self._n_groups)] * 2]

    def encoded(self, x_NGd: Tensor) -> list[Tensor]:
        """Return codes, steps and least values."""
        x_NGgc = self._rotated(x_NGd).unflatten(-1, (self._n_groups, -1))
        least_NGg, most_NGg = torch.aminmax(x_NGgc, dim=-1)
        least_NGg = least_NGg.to(_SCALE_TYPE)
        steps_NGg = _scale((most_NGg - least_NGg) / 15)
        codes = ((x_NGgc - least_NGg[..., None]) / steps_NGg[..., None]).round_().clamp_(0, 15).to(torch.uint8)
        return [packed_pairs(codes.flatten(-2)), steps_NGg, least_NGg]

    def decoded(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rotated values: codes times steps, plus least values."""
        pairs, steps, least = parts
        x = unpacked_pairs(pairs).float()
        x.unflatten(-1, (self._n_groups, -1)).mul_(steps.float()[..., None]).add_(least.float()[..., None])
        return x.to(self._dtype)

    def restored(self, y: Tensor) -> Tensor:
        """Rotate attention's output back: the matrix is its own inverse."""
        return self._rotated(y)

    def _rotated(self, x: Tensor) -> Tensor:
        """Return x with its channels rotated, in fp32 or wider."""
        x = _wide(x)
        return (x.unflatten(-1, (-1, len(self._rotation))) @ self._rotation.to(x.dtype)).flatten(-2)


def hadamard(n: int) -> Tensor:
    """Return the orthogonal Hadamard matrix of a power of two, [n, n] (Sylvester's); it is its own inverse."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(n)


def packed_pairs(codes: Tensor) -> Tensor:
    """Return codes below 16, uint8 [..., n], two in a byte, [..., n / 2]: the first in the low half."""
    return codes[..., ::2] | codes[..., 1::2] << 4


def unpacked_pairs(pairs: Tensor) -> Tensor:
    """Return the codes of bytes: uint8 [..., n / 2] to [..., n].

    Each byte is spread over the two bytes of an int16, low half first: faster than two strided copies.
    """
    wide = pairs.to(torch.int16)
    return (wide | wide << 4).bitwise_and_(0x0F0F).view(torch.uint8)


def _n_groups(head_dim: int) -> int:
    """Return the number of groups of a head."""
    return head_dim // GROUP_CHANNELS if head_dim % GROUP_CHANNELS == 0 else 1


def _wide(x: Tensor) -> Tensor:
    """Return x in fp32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scale(wanted: Tensor) -> Tensor:
    """Return positive scales, rounded."""
    return wanted.clamp_(min=_SMALLEST_SCALE).to(_SCALE_TYPE)
