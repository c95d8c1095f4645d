"""The recipes of agentkit's own training commands: their keys are listed without a recipe or a server."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.specialise.recipe import SpecialiseRecipe
from modelstack.preferences.constitution.run import ConstitutionRecipe
from modelstack.recipe_keys import keys_text, recipe_keys


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("specialise", SpecialiseRecipe),
        ("constitution revise", ConstitutionRecipe),
        ("constitution compare", ConstitutionRecipe),
    ],
)
def test_a_command_lists_the_keys_of_its_recipe(command: str, model: type[BaseModel]) -> None:
    keys = recipe_keys(model)
    assert not [key.key for key in keys if not key.meaning]
    as_text, as_json = (CliRunner().invoke(app, [*command.split(), flag]) for flag in ("--keys", "--keys-json"))
    assert as_text.output == keys_text(keys) + "\n"
    assert json.loads(as_json.output) == [asdict(key) for key in keys]
