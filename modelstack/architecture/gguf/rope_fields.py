"""Rotary position embedding in GGUF metadata, and the scalings that llama.cpp supports.

llama.cpp reads a base, a linear factor, or YaRN with fixed betas of 32 and 1, and always rounds YaRN's bounds to
whole channels. It multiplies YaRN's own factor on cos and sin, 0.1 ln s + 1, by `rope.scaling.attn_factor`.

Llama 3's scaling is not metadata but a tensor, `rope_freqs.weight`, with the divisor of each frequency. Files do
not contain the four parameters of the scaling: this project's files add them under an own key; for other files
they are computed from the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from modelstack.architecture.config import RopeParameters
from modelstack.architecture.gguf.fields import MAX_SIZE, Fields, Value, shortest
from modelstack.architecture.gguf.rules import Array
from modelstack.architecture.presets.preset import Json
from modelstack.errors import UserError

BETA_FAST, BETA_SLOW = 32.0, 1.0
TRUNCATE_KEY = "rope.scaling.yarn_truncate"
BANDS_KEY = "rope.scaling.llama3"
"""Key with factor, low_freq_factor, high_freq_factor and trained length. This key and `TRUNCATE_KEY` are our own;
llama.cpp ignores unknown keys.
"""


def rope_fields(rope: RopeParameters) -> dict[str, Value]:
    """Return the metadata of one rotation, without the prefix."""
    fields: dict[str, Value] = {"rope.freq_base": float(rope.rope_theta)}
    if rope.rope_type == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope.factor)}
    if rope.rope_type == "llama3":
        length = float(rope.original_max_position_embeddings or 0)
        fields[BANDS_KEY] = [rope.factor, rope.low_freq_factor, rope.high_freq_factor, length]
    if rope.rope_type == "yarn":
        fields |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope.factor),
            "rope.scaling.original_context_length": rope.original_max_position_embeddings or 0,
            "rope.scaling.yarn_beta_fast": float(rope.beta_fast),
            "rope.scaling.yarn_beta_slow": float(rope.beta_slow),
        }
        if rope.attention_factor is not None:
            fields["rope.scaling.attn_factor"] = rope.attention_factor / _own_factor(rope.factor)
    return fields


def read_rope_fields(fields: Fields) -> Json:
    """Return `rope_parameters` in the form of `config.json`.

    Raises:
        UserError: The base or the scaling is invalid.
    """
    json: Json = {"rope_theta": fields.number("rope.freq_base", 10_000.0), "rope_type": "default"}
    if json["rope_theta"] <= 1:
        raise UserError(f"GGUF rope.freq_base is {json['rope_theta']}; the base must be above 1")
    kind = fields.text("rope.scaling.type", "none")
    factor = fields.number("rope.scaling.factor", 0.0) or 1.0
    if kind not in ("none", "linear", "yarn"):
        raise UserError(f"GGUF rope.scaling.type {kind!r} is not known; known: none, linear and yarn")
    if kind == "linear" and factor != 1.0:
        json |= {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        json |= {"rope_type": "yarn", "factor": factor} | _read_yarn(fields, factor)
    return json


def _read_yarn(fields: Fields, factor: float) -> Json:
    json: Json = {"original_max_position_embeddings": fields.size("rope.scaling.original_context_length")}
    json["beta_fast"] = fields.number("rope.scaling.yarn_beta_fast", BETA_FAST)
    json["beta_slow"] = fields.number("rope.scaling.yarn_beta_slow", BETA_SLOW)
    if "rope.scaling.attn_factor" in fields:
        factor_on_cos = fields.number("rope.scaling.attn_factor") * _own_factor(factor)
        json["attention_factor"] = float(f"{factor_on_cos:.6g}")
    return json


def rope_limits(rope: RopeParameters, scalings: Collection[str] = ("linear", "yarn")) -> Iterator[str]:
    """Yield the rotary settings that llama.cpp does not support; `scalings` are the architecture's types."""
    if rope.rope_type not in ("default", *scalings):
        yield f"rope_type {rope.rope_type!r}: llama.cpp supports default, {', '.join(scalings)} here"
    if rope.partial_rotary_factor != 1.0:
        yield f"partial_rotary_factor {rope.partial_rotary_factor}: llama.cpp rotates whole heads, set it to 1"
    if rope.rope_type == "yarn":
        if (rope.beta_fast, rope.beta_slow) != (BETA_FAST, BETA_SLOW):
            yield f"beta_fast {rope.beta_fast}, beta_slow {rope.beta_slow}: llama.cpp always uses 32 and 1"
        if not rope.truncate:
            yield "truncate false: llama.cpp rounds YaRN's bounds to whole channels, set it to true"


def band_factors(rope: RopeParameters, r: int) -> Array:
    """Return the divisors of the r/2 frequencies in Llama 3's scaling."""
    plain = RopeParameters(rope_theta=rope.rope_theta)
    return (_frequencies(plain, r) / _frequencies(rope, r)).astype(np.float32)


def relative_difference(rope: RopeParameters, other: RopeParameters, r: int) -> float:
    """Return the maximum relative difference between the frequencies of two rotations."""
    return float(np.abs(_frequencies(rope, r) / _frequencies(other, r) - 1).max())


def _frequencies(rope: RopeParameters, r: int) -> Array:
    from modelstack.architecture.rope import inverse_frequencies

    return np.array(inverse_frequencies(rope, r)[0])


def read_bands(factors: Array, theta: float, stated: Sequence[float] | None) -> Json:
    """Return the `rope_parameters` of the Llama 3 scaling that gives this `rope_freqs.weight`.

    Args:
        factors: The tensor.
        theta: The base.
        stated: The four values of the file under `BANDS_KEY`; None: compute them from the tensor.

    Raises:
        UserError: The tensor is not a scaling of Llama 3's form.
    """
    divisors = factors.astype(np.float64)
    if not np.all(np.isfinite(divisors)) or divisors.min() < 1 - 1e-6:
        raise UserError(
            "GGUF tensor rope_freqs.weight contains factors below 1, which Llama 3's scaling does not have"
        )
    factor, low, high, length = stated or _solve(divisors, theta ** (-np.arange(0, factors.size) / factors.size))
    if not 1 <= factor < MAX_SIZE or not 0 <= low < high < MAX_SIZE or not 1 <= length < MAX_SIZE:
        raise UserError(f"GGUF values of Llama 3's scaling are invalid: {factor}, {low}, {high}, {length}")
    json: Json = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": shortest(factor),
        "low_freq_factor": shortest(low),
        "high_freq_factor": shortest(high),
        "original_max_position_embeddings": round(length),
    }
    if not np.allclose(band_factors(RopeParameters(**json), 2 * factors.size), divisors, rtol=1e-4):
        raise UserError("GGUF tensor rope_freqs.weight is not of Llama 3's form; no other scaling is supported")
    return json


def _solve(divisors: Array, f: Array) -> tuple[float, float, float, float]:
    """Return factor, low, high and trained length L0, to five digits.

    Between the bands, the fraction s = (L0 f / 2 pi - low) / (high - low) of a frequency f is kept: a straight
    line in f. Its two coefficients cannot determine three unknowns, which may all be multiplied by one constant.
    `low` is therefore assumed to be 1, as in all models that Meta released.
    """
    factor = float(divisors.max())
    share = (1 / divisors - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones_like(divisors)
    between = np.flatnonzero((share > 1e-4) & (share < 1 - 1e-4))
    if len(between) < 2:
        raise UserError(
            "GGUF tensor rope_freqs.weight has fewer than two interpolated bands; its form is ambiguous"
        )
    fast, slow = between[0], between[-1]
    slope = float((share[fast] - share[slow]) / (f[fast] - f[slow])) if f[fast] != f[slow] else 0.0
    offset = float(share[slow] - slope * f[slow])
    if not (slope > 0 > offset):
        raise UserError(
            "GGUF tensor rope_freqs.weight does not increase with frequency, as Llama 3's scaling does"
        )
    width = -1 / offset  # high - low
    return _digits(factor), 1.0, _digits(1.0 + width), _digits(2 * math.pi * slope * width)


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def _own_factor(scale: float) -> float:
    """Return YaRN's own factor on cos and sin."""
    return 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0
