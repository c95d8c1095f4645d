"""Recipes of the package: each is run by the command that its comment gives, and is found by name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")


from modelstack.cli import app
from modelstack.commands.recipe_arguments import MODELS, recipe_model
from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.shipped_recipes import FOLDERS, ROOT, ShippedRecipe, recipe_path, shipped_recipe, shipped_recipes
from modelstack.train.run.recipe import RunRecipe

RECIPES = shipped_recipes()


def commands_in(comment: str) -> list[tuple[str, str, list[str]]]:
    """Return the commands that a comment gives for shipped recipes: words, name, and keys over the recipe."""
    lines = re.sub(r"\\\n# *", "", comment).splitlines()
    words = "|".join(sorted(FOLDERS, key=len, reverse=True))
    found = []
    for line in lines:
        for command, rest in re.findall(rf"modelstack ({words}) ([^;`]+)", line):
            name, *others = shlex.split(rest, comments=True)
            # An argument with a dash is an option; a name in capitals stands for a file.
            if not name.isupper():
                found.append(
                    (command, name.rstrip(",:"), [word for word in others if re.match(r"[a-z_.]+=", word)])
                )
    return found


def comment_of(recipe: ShippedRecipe) -> str:
    return "\n".join(line for line in recipe.path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


def test_each_file_is_a_recipe_of_a_command() -> None:
    assert sorted(recipe.path for recipe in RECIPES) == sorted(ROOT.rglob("*.toml"))
    assert FOLDERS.keys() == MODELS.keys() - {"tokenizer train"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_comment_gives_the_command_of_its_recipe_and_others_that_exist(recipe: ShippedRecipe) -> None:
    assert len(recipe.about) <= 100 and recipe.about.endswith(".")
    given = commands_in(comment_of(recipe))
    assert any(command == recipe.command and recipe.is_called(name) for command, name, _ in given)
    for command, name, overrides in given:
        assert isinstance(
            read_recipe(recipe_model(command), recipe_path(name, command), overrides), recipe_model(command)
        )


def test_a_recipe_is_found_by_its_name_with_or_without_folders(tmp_path: Path) -> None:
    assert recipe_path("nano", "train") == recipe_path("train/nano", "train") == ROOT / "train" / "nano.toml"
    mine = tmp_path / "nano.toml"
    mine.write_text("", encoding="utf-8")
    assert recipe_path(str(mine), "train") == mine
    assert shipped_recipe("reinforce/json").path == recipe_path("json", "reinforce")


@pytest.mark.parametrize(
    ("given", "command", "message"),
    [
        ("nanoo", "train", "'nanoo' is neither a recipe file .* nearest shipped: nano"),
        ("missing/nano.toml", "train", "nano.toml does not exist; nearest shipped: nano"),
        ("tools-smal", "sft", "nearest shipped: tools-small"),
        ("fineweb", "train", "data/run/fineweb is for `modelstack data run`, not `modelstack train`"),
    ],
)
def test_a_name_that_is_no_recipe_is_an_error_with_the_nearest(given: str, command: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_path(given, command)


def test_recipes_are_listed_by_command_and_copied_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = CliRunner().invoke(app, ["recipes"]).output
    for recipe in RECIPES:
        assert f"{recipe.command}\t{recipe.path.stem}\t{recipe.about}\n" in listed
    shown = CliRunner().invoke(app, ["recipes", "show", "sft/tools"]).output
    (tmp_path / "mine.toml").write_text(shown, encoding="utf-8")
    assert read_recipe(SftRecipe, tmp_path / "mine.toml") == read_recipe(
        SftRecipe, shipped_recipe("sft/tools").path
    )
    unknown = CliRunner().invoke(app, ["recipes", "show", "sft/toools"])
    assert "nearest shipped: tools" in " ".join(unknown.stderr.split())


@pytest.mark.parametrize("name", ["dpo", "bradley-terry", "gkd", "tools"])
def test_a_training_is_shortened_by_a_number_of_steps(name: str) -> None:
    recipe = shipped_recipe(name)
    shortened = read_recipe(recipe_model(recipe.command), recipe.path, ["steps=4"])
    assert shortened.model_dump()["steps"] == 4


def test_an_error_of_a_recipe_begins_with_its_reason() -> None:
    with pytest.raises(UserError, match="^recipe: epochs and steps both set the length of the run"):
        read_recipe(recipe_model("prefer"), shipped_recipe("dpo").path, ["epochs=1", "steps=4"])


def test_a_file_of_keys_is_laid_over_a_recipe(tmp_path: Path) -> None:
    over = tmp_path / "over.toml"
    over.write_text("steps = 7\n[data]\nheld_out = 0.1\n", encoding="utf-8")
    nano = read_recipe(RunRecipe, shipped_recipe("train/nano").path)
    changed = read_recipe(RunRecipe, shipped_recipe("train/nano").path, [str(over), "rows=2"])
    assert (changed.steps, changed.rows, changed.data.held_out) == (7, 2, 0.1)
    assert changed.data.row_tokens == nano.data.row_tokens
