"""The recipe of a tokenizer: a TOML file, keys of the command line over it, errors that name the nearest key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from modelstack.errors import UserError
from modelstack.tokenizer.training import TokenizerConfig


def read_recipe(file: Path | None, overrides: Iterable[str] = ()) -> TokenizerConfig:
    """Return the configuration of a recipe with `key=value` overrides (`special_tokens.n_reserved=8`) over it.

    Raises:
        UserError: the file is no TOML, a key is not known, or a value is not allowed.
    """
    content: dict[str, Any] = {}
    if file is not None:
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {file} is not TOML: {error}") from error
    for override in overrides:
        key, _, text = override.partition("=")
        place = content
        *tables, name = key.strip().split(".")
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UserError(f"{override!r}: {table!r} is a value in the recipe, not a table")
        place[name] = _parsed(text.strip())
    _refuse_unknown(content, TokenizerConfig, "")
    try:
        return TokenizerConfig.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"recipe key {key!r}: {fault['msg']} (given: {fault['input']!r})") from error


def _parsed(text: str) -> Any:
    """Return a value as TOML has it; what is no TOML is a text without quotes. "none" stands for no value."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _refuse_unknown(content: dict[str, Any], model: type[BaseModel], section: str) -> None:
    for key, value in content.items():
        field = model.model_fields.get(key)
        if field is None:
            nearest = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0)[0]
            raise UserError(
                f"recipe key {section + key!r} is not known; nearest: {section + nearest!r}. "
                f"All keys: {', '.join(section + name for name in model.model_fields)}"
            )
        if (
            isinstance(value, dict)
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            _refuse_unknown(value, field.annotation, f"{key}.")
