"""Presets: translation of a family's `config.json` to our config and back, and the published sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelstack.architecture.config import ModelConfig, RopeParameters
from modelstack.errors import UserError

Json = dict[str, Any]

SAME_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Keys with the same meaning in every family."""

ROPE_KEYS = tuple(RopeParameters.model_fields)


@dataclass(frozen=True, slots=True)
class Preset:
    """A family of models."""

    model_type: str
    """Name of the family in `config.json`."""
    architecture: str
    """Name of transformers' class, for `architectures` in `config.json`."""
    from_hf: Callable[[Json], ModelConfig]
    to_hf: Callable[[ModelConfig], Json]
    """Translate to `config.json`, without `model_type`, `architectures` and `SAME_KEYS`, which `registry.to_hf`
    adds.
    """
    sizes: Mapping[str, Json] = field(default_factory=dict)
    """Published `config.json` by name, without keys that equal the family's defaults."""
    tied_by_default: bool = False


def same_keys(json: Json, *, tied_by_default: bool = False) -> Json:
    """Return the keys that need no translation; absent keys get our default.

    Raises:
        UserError: A size that every family requires is missing.
    """
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        if json.get(key) is None:
            raise UserError(f"config.json has no {key!r}; every {json.get('model_type')} model must set it")
    found = {key: json[key] for key in SAME_KEYS if json.get(key) is not None}
    found.setdefault("tie_word_embeddings", tied_by_default)
    if isinstance(found.get("eos_token_id"), list):
        found["eos_token_id"] = tuple(found["eos_token_id"])
    return found


def read_rope(json: Json, *, theta: float, max_length: int | None = None) -> RopeParameters:
    """Return the rotary parameters, in the form of `rope_parameters` or of `rope_theta` and `rope_scaling`.

    Args:
        json: A `config.json`, or one entry of a nested `rope_parameters` under that key.
        theta: The family's default base.
        max_length: Default of `original_max_position_embeddings`; None: `max_position_embeddings`.

    Raises:
        UserError: The scaling or a value of it is invalid.
    """
    given = dict(json.get("rope_parameters") or json.get("rope_scaling") or {})
    given.setdefault("rope_type", given.pop("type", None) or "default")
    given.setdefault("rope_theta", json.get("rope_theta") or theta)
    if json.get("partial_rotary_factor") is not None:
        given.setdefault("partial_rotary_factor", json["partial_rotary_factor"])
    given.pop("type", None)
    known = {key: value for key, value in given.items() if key in ROPE_KEYS and value is not None}
    if known["rope_type"] in ("yarn", "dynamic", "llama3"):
        known.setdefault("original_max_position_embeddings", max_length or json.get("max_position_embeddings"))
    try:
        return RopeParameters(**known)
    except ValueError as error:
        raise UserError(f"rope_parameters {given}: {error}") from error


def read_rope_by_layer_type(json: Json, thetas: Mapping[str, float]) -> dict[str, RopeParameters]:
    """Return rotary parameters for each layer type of `thetas`, which gives their default bases.

    A flat old-style `rope_scaling` applies to full attention only, as in Gemma 3 and OLMo 3.

    Raises:
        UserError: A scaling or a value of it is invalid.
    """
    nested = json.get("rope_parameters") or {}
    found: dict[str, RopeParameters] = {}
    for kind, theta in thetas.items():
        one = {"max_position_embeddings": json.get("max_position_embeddings"), "rope_parameters": nested.get(kind)}
        if kind == "full_attention" and not nested:
            one["rope_scaling"] = json.get("rope_scaling")
        found[kind] = read_rope(one, theta=theta)
    return found


def write_rope(rope: RopeParameters) -> Json:
    """Return transformers' `rope_parameters`, with only the keys that the scaling uses."""
    keys = {
        "default": (),
        "linear": ("factor",),
        "ntk": ("factor",),
        "dynamic": ("factor", "original_max_position_embeddings"),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        "yarn": (
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    }[rope.rope_type]
    written: Json = {"rope_type": rope.rope_type, "rope_theta": rope.rope_theta}
    if rope.partial_rotary_factor != 1.0:
        written["partial_rotary_factor"] = rope.partial_rotary_factor
    return written | {key: getattr(rope, key) for key in keys if getattr(rope, key) is not None}


def layer_list(json: Json, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return a per-layer list of `config.json`, or the family's default without one."""
    return tuple(json[key]) if json.get(key) else default


def read_window_layers(json: Json, *, max_window_layers: int) -> Json:
    """Return layer types and window of Qwen's families, which use windows from layer `max_window_layers` on.

    Args:
        json: A `config.json`.
        max_window_layers: The family's default of that key.
    """
    window = json.get("sliding_window") if json.get("use_sliding_window") else None
    first = json.get("max_window_layers", max_window_layers)
    default = tuple(
        "sliding_attention" if window and layer >= first else "full_attention"
        for layer in range(json["num_hidden_layers"])
    )
    return {"layer_types": layer_list(json, "layer_types", default), "sliding_window": window}


def write_window_layers(config: ModelConfig) -> Json:
    """Return the keys that `read_window_layers` reads."""
    return {
        "layer_types": list(config.layer_types),
        "max_window_layers": config.layer_types.count("full_attention"),
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
    }
