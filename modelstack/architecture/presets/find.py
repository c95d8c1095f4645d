"""The config that a user means by a name, a file or a folder; weights are not read."""

from __future__ import annotations

import json
from pathlib import Path

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.presets.registry import from_hf, published
from modelstack.errors import UserError


def find_config(model: str) -> ModelConfig:
    """Return the config that a name, a file or a folder stands for; a path that exists goes before a name.

    Raises:
        UserError: There is no such file and no such name, or the file is no config of a known family.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    elif not path.exists() and path.suffix != ".json":
        return published(model)
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a config.json, a folder with one, or a published size")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must contain one JSON object, a model's config")
    return from_hf(values)
