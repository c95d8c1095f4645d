"""Recipes: a TOML file, `key=value` and further files of the command line over it, errors with the nearest key.

Each step has its own recipe, a frozen pydantic model; all are read in the same way.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from modelstack.errors import UserError, reason_of
from modelstack.files import parse_toml, read_toml

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_recipe(kind: type[Recipe], file: Path | None, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe of a file with overrides (`special_tokens.n_reserved=8`) over it.

    Args:
        kind: Its model.
        file: TOML; None: everything is in the overrides or by default.
        overrides: `key=value`, or a .toml file whose keys are laid over the recipe. A value is written as in TOML;
            text may go without quotes, and "none" is no value.

    Raises:
        UserError: The file is no TOML, a key is not known, or a value is not allowed.
    """
    content: dict[str, Any] = {}
    if file is not None:
        content = read_toml(file, "recipe")
    for override in overrides:
        if override.endswith(".toml") and "=" not in override:
            _lay_over(content, read_toml(Path(override), "recipe"))
        else:
            _put(content, override)
    return checked_recipe(kind, content)


def checked_recipe(kind: type[Recipe], content: Mapping[str, Any]) -> Recipe:
    """Return the recipe of nested tables.

    Raises:
        UserError: A key is not known, or a value is not allowed.
    """
    _refuse_unknown(content, kind, "")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        where = f"recipe key {key!r}" if key else "recipe"
        if fault["type"] == "missing" and all(isinstance(part, str) for part in fault["loc"]):
            raise UserError(f"recipe key {key!r} is missing: give it in the recipe, or as {key}=VALUE") from error
        given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
        raise UserError(f"{where}: {reason_of(fault)}{given}") from error


def _lay_over(content: dict[str, Any], keys: Mapping[str, Any]) -> None:
    for name, value in keys.items():
        below = content.get(name)
        if isinstance(below, dict) and isinstance(value, Mapping):
            _lay_over(below, value)
        else:
            content[name] = value


def _put(content: dict[str, Any], override: str) -> None:
    key, _, text = override.partition("=")
    place = content
    *tables, name = key.strip().split(".")
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise UserError(f"{override!r}: {table!r} is a value in the recipe, not a table")
    place[name] = _parsed(text.strip())


def _parsed(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return parse_toml(f"value = {text}", "a value on the command line")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _refuse_unknown(content: Mapping[str, Any], model: type[BaseModel], section: str) -> None:
    for key, value in content.items():
        field = model.model_fields.get(key)
        if field is None:
            nearest = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0)[0]
            raise UserError(
                f"recipe key {section + key!r} is not known; nearest: {section + nearest!r}. "
                f"All keys: {', '.join(section + name for name in model.model_fields)}"
            )
        tables = tables_of(field.annotation)
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, Mapping) and len(tables) == 1:
                _refuse_unknown(table, tables[0], f"{section}{key}.")


def tables_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models of the tables that a recipe key holds; several are forms of one table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(table for part in get_args(annotation) for table in tables_of(part)))
