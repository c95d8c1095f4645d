"""The llama.cpp family of each model. A new family is a file in `families` and one line here."""

from __future__ import annotations

from typing import Any

from modelstack.architecture.gguf.families import (
    deepseek2,
    deepseek4,
    gemma3,
    gpt_oss,
    llama,
    olmo2,
    qwen2,
    qwen3,
    qwen3moe,
    smollm3,
)
from modelstack.architecture.gguf.family import Family
from modelstack.errors import UserError

FAMILIES = (
    llama.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    qwen3moe.FAMILY,
    gemma3.FAMILY,
    smollm3.FAMILY,
    olmo2.FAMILY,
    gpt_oss.FAMILY,
    deepseek2.FAMILY,
    deepseek4.FAMILY,
)
_BY_MODEL_TYPE = {family.model_type: family for family in FAMILIES}
_BY_ARCH = {family.arch: family for family in FAMILIES}


def family_of(model_type: str) -> Family:
    """Return the family that writes models of a `model_type`.

    Raises:
        UserError: llama.cpp does not support such models, or we do not.
    """
    if model_type not in _BY_MODEL_TYPE:
        known = ", ".join(sorted(_BY_MODEL_TYPE))
        raise UserError(f"model_type {model_type!r} cannot be exported as GGUF; supported types: {known}")
    return _BY_MODEL_TYPE[model_type]


def family_in_file(arch: Any) -> Family:
    """Return the family that reads a file with this `general.architecture`.

    Raises:
        UserError: The architecture is not supported.
    """
    if not isinstance(arch, str) or arch not in _BY_ARCH:
        known = ", ".join(sorted(_BY_ARCH))
        raise UserError(f"GGUF general.architecture is {str(arch)[:60]!r}; supported architectures: {known}")
    return _BY_ARCH[arch]
