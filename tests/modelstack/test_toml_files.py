"""TOML files that nest without end are a clear error, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from modelstack.architecture.ablation import choices
from modelstack.data.code.repository import license_of_files
from modelstack.decide.devices import read_devices
from modelstack.errors import UserError
from modelstack.files import MAX_TOML_LEVELS, parse_toml, read_toml
from modelstack.recipe_file import read_recipe

ESCAPED = '"\\""'
DEEP = {
    "arrays that do not end": "a = " + "[" * 20_000,
    "arrays": "a = " + "[" * 100 + "]" * 100,
    "tables in arrays": "a = " + "[{b = " * 100 + "1" + "}]" * 100,
    "a dotted key": ".".join("a" * 100_000) + " = 1",
    "a dotted header": "[" + " . ".join("a" * 100_000) + "]",
    "a key of quoted parts": ".".join(["'x y'"] * 100_000) + " = 1",
    "a key of escaped parts": ".".join([ESCAPED] * 100_000) + " = 1",
    "both": "a = [{" + ".".join("b" * 63) + " = [[]]}]",
}
LONG_TEXTS = {
    "quotes": "a = '" + '"' * 50_000 + "'",
    "escaped quotes": 'a = "' + '\\"' * 50_000 + '"',
    "one word": "a = '" + "x" * 50_000 + "'",
    "backslashes": "a = '" + "\\" * 50_000 + "'",
}


class Recipe(BaseModel):
    """A recipe with one key."""

    a: int = 1


@pytest.mark.parametrize("name", DEEP)
def test_a_file_that_is_nested_too_deeply_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "deep.toml"
    file.write_text(DEEP[name], encoding="utf-8")
    for read in (
        lambda: read_toml(file, "recipe"),
        lambda: read_recipe(Recipe, file),
        lambda: choices.read_recipe(file),
        lambda: read_devices(file),
    ):
        with pytest.raises(UserError, match=r"deep\.toml is nested too deeply: at most 64"):
            read()


@pytest.mark.parametrize("name", DEEP)
def test_metadata_that_is_nested_too_deeply_declares_no_licence(name: str) -> None:
    assert license_of_files({"pyproject.toml": DEEP[name]}) is None


def test_a_value_on_the_command_line_may_not_nest_either() -> None:
    with pytest.raises(UserError, match="a value on the command line is nested too deeply"):
        read_recipe(Recipe, None, ["a=" + "[" * 100_000])


def test_a_number_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "long.toml"
    file.write_text("a = " + "1" * 5_000, encoding="utf-8")
    with pytest.raises(UserError, match=r"long\.toml: Exceeds the limit"):
        read_recipe(Recipe, file)


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_texts_are_read(name: str) -> None:
    assert len(parse_toml(LONG_TEXTS[name], "x")["a"]) >= 50_000


def test_as_many_levels_as_are_allowed_are_read() -> None:
    arrays = MAX_TOML_LEVELS - 1  # the document itself is a table
    assert parse_toml("a = " + "[" * arrays + "]" * arrays, "x")
