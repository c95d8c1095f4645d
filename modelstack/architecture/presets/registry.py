"""The preset for each `model_type`. A new family is one file in this folder and one line here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from modelstack.architecture.config import TRAINING_KEYS, ModelConfig
from modelstack.architecture.presets import (
    deepseek_v3,
    deepseek_v4,
    gemma3,
    gpt_oss,
    llama,
    nano,
    olmo3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from modelstack.architecture.presets.preset import SAME_KEYS, Json, Preset
from modelstack.errors import UserError

PRESETS: dict[str, Preset] = {
    preset.model_type: preset
    for preset in (
        llama.PRESET,
        qwen2.PRESET,
        qwen3.PRESET,
        qwen3_moe.PRESET,
        gemma3.PRESET,
        olmo3.PRESET,
        smollm3.PRESET,
        gpt_oss.PRESET,
        deepseek_v3.PRESET,
        deepseek_v4.PRESET,
    )
}


def preset_of(model_type: str | None) -> Preset:
    """Return the preset of a family.

    Raises:
        UserError: The family is unknown.
    """
    if model_type not in PRESETS:
        nearest = get_close_matches(str(model_type), PRESETS, n=1) or sorted(PRESETS)
        raise UserError(f"model_type {model_type!r} is not known; nearest: {', '.join(nearest)}")
    return PRESETS[model_type]


def from_hf(json: Json) -> ModelConfig:
    """Return our config of a `config.json`.

    Raises:
        UserError: The family is unknown, or its sizes do not match.
    """
    preset = preset_of(json.get("model_type"))
    try:
        return preset.from_hf(json)
    except KeyError as error:
        raise UserError(f"config.json has no {error}; every {preset.model_type} model must set it") from error


def to_hf(config: ModelConfig) -> Json:
    """Return the `config.json` for transformers.

    Raises:
        UserError: The family's `config.json` cannot express a setting of the config.
    """
    preset = preset_of(config.model_type)
    json: Json = {"model_type": preset.model_type, "architectures": [preset.architecture]}
    for key in SAME_KEYS:
        value = getattr(config, key)
        json[key] = list(value) if isinstance(value, tuple) else value
    json |= preset.to_hf(config)
    again = preset.from_hf(json).model_dump()
    # Training settings do not affect the model's function; `training.json` holds them.
    lost = sorted(key for key, value in config.model_dump(exclude=TRAINING_KEYS).items() if again[key] != value)
    if lost:
        raise UserError(
            f"the config.json of {config.model_type} in transformers cannot express {', '.join(lost)}; "
            f"use the family's own values to export"
        )
    return json


def published(name: str, **changes: Any) -> ModelConfig:
    """Return a published size by name, for example "llama-3-8b".

    Raises:
        UserError: The name is unknown.
    """
    sizes = published_sizes()
    if name not in sizes:
        raise UserError(f"no published size {name!r}; known: {', '.join(sorted(sizes))}")
    return from_hf(sizes[name] | changes)


def published_sizes() -> dict[str, Json]:
    """Return the `config.json` of every size by name, including this project's sizes."""
    theirs = {
        name: {"model_type": preset.model_type, **json}
        for preset in PRESETS.values()
        for name, json in preset.sizes.items()
    }
    return theirs | nano.SIZES
