"""Rotary position embedding and its scalings; ALiBi's slopes.

Sources: RoFormer, arXiv 2104.09864; position interpolation, 2306.15595; NTK-aware base (bloc97's note, as in
transformers' `dynamic`); YaRN, 2309.00071; Llama 3's frequency bands (its reference code); ALiBi, 2108.12409.

Letters: T tokens, r rotated channels, d head channels, H heads.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from modelstack.architecture.config import RopeParameters

Rotation = tuple[Tensor, Tensor]
"""cos and sin, [B, T, r/2] or [1, T, r/2]."""


@lru_cache(maxsize=256)
def inverse_frequencies(
    rope: RopeParameters, r: int, length: int | None = None
) -> tuple[tuple[float, ...], float]:
    """Return the r/2 angles per position, radians, and the factor on cos and sin.

    Args:
        rope: The rotary parameters.
        r: Rotated channels.
        length: Tokens of the sequence; only `dynamic` depends on it.
    """
    base = rope.rope_theta
    if rope.rope_type == "ntk":
        base *= rope.factor ** (r / (r - 2))
    if rope.rope_type == "dynamic":
        trained = rope.original_max_position_embeddings or 1
        stretch = max(length or trained, trained) * rope.factor / trained - (rope.factor - 1)
        base *= stretch ** (r / (r - 2))
    # fp32 throughout, as in every reference implementation: fp64 would differ in the last bits at long distance.
    # On the CPU for every device: the values become plain numbers, which the meta device cannot provide.
    f = 1.0 / (base ** (torch.arange(0, r, 2, dtype=torch.float32, device="cpu") / r))
    factor = 1.0
    if rope.rope_type == "linear":
        f = f / rope.factor
    elif rope.rope_type == "llama3":
        f = _llama3(f, rope)
    elif rope.rope_type == "yarn":
        f, factor = _yarn(f, rope, r), _yarn_attention_factor(rope)
    return tuple(f.tolist()), factor


def rotation(rope: RopeParameters, r: int, positions_BT: Tensor) -> Rotation:
    """Return cos and sin for the positions, fp32, each [B, T, r/2]."""
    length = int(positions_BT.max()) + 1 if rope.rope_type == "dynamic" else None
    frequencies, factor = inverse_frequencies(rope, r, length)
    f = torch.tensor(frequencies, dtype=torch.float32, device=positions_BT.device)
    angles = positions_BT[..., None].float() * f
    cos, sin = angles.cos(), angles.sin()
    return (cos * factor, sin * factor) if factor != 1.0 else (cos, sin)


def half_split(rotation: Rotation, dtype: torch.dtype) -> Rotation:
    """Return (cos, cos) and (-sin, sin) for `rotate_half_split`, each [B or 1, 1, T, r]."""
    cos, sin = (t.unsqueeze(1).to(dtype) for t in rotation)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate_half_split(x_BHTd: Tensor, tables: Rotation) -> Tensor:
    """Rotate pairs (j, j + r/2) of the first r channels; other channels pass through (NeoX's order).

    A roll by half moves each channel's partner to its position: three kernels and one new tensor instead of eight
    kernels and five tensors with slices. No gradient needs the tensor that is overwritten.
    """
    cos, sin = tables
    r = cos.shape[-1]
    if x_BHTd.shape[-1] > r:
        return torch.cat((rotate_half_split(x_BHTd[..., :r], tables), x_BHTd[..., r:]), dim=-1)
    return x_BHTd.roll(r // 2, dims=-1).mul_(sin).addcmul_(x_BHTd, cos)


def rotate_interleaved(x_BHTr: Tensor, rotation: Rotation) -> Tensor:
    """Rotate pairs (2j, 2j + 1) of all r channels (GPT-J's order)."""
    cos, sin = (t.unsqueeze(1).to(x_BHTr.dtype) for t in rotation)
    a, b = x_BHTr[..., 0::2], x_BHTr[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


def yarn_mscale(factor: float, mscale: float) -> float:
    """Return YaRN's m(s, k) = 0.1 k ln s + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def alibi_slopes(n_heads: int, bias_max: float = 8.0) -> list[float]:
    """Return the slopes m_h; for H not a power of two, every other slope of the doubled set is appended."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-bias_max * h / power) for h in range(1, power + 1)]
    if power < n_heads:
        doubled = [2.0 ** (-bias_max * h / (2 * power)) for h in range(1, 2 * power + 1)]
        slopes += doubled[0::2][: n_heads - power]
    return slopes


def _llama3(f: Tensor, rope: RopeParameters) -> Tensor:
    """Slow long waves by `factor`, keep short ones, interpolate between."""
    trained = rope.original_max_position_embeddings or 1
    wavelength = 2 * math.pi / f
    s = (trained / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    s = s.clamp(0, 1)
    return (1 - s) * f / rope.factor + s * f


def _yarn(f: Tensor, rope: RopeParameters, r: int) -> Tensor:
    """Keep channels that turn often within the trained length; interpolate slow ones."""
    trained = rope.original_max_position_embeddings or 1

    def channel_of(n_turns: float) -> float:
        return r * math.log(trained / (n_turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = channel_of(rope.beta_fast), channel_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, r - 1)
    if low == high:
        high += 0.001  # gives a step and avoids division by zero
    ramp = ((torch.arange(r // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return (f / rope.factor) * ramp + f * (1 - ramp)


def _yarn_attention_factor(rope: RopeParameters) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
    return yarn_mscale(rope.factor, 1.0)
