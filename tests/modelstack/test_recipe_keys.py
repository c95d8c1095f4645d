"""Keys of recipes: type, default and meaning of each, read from the recipe's model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.commands.recipe_arguments import MODELS, recipe_model
from modelstack.data.mix import MixRecipe
from modelstack.recipe_keys import WIDTH, RecipeKey, keys_text, recipe_keys


class Pace(BaseModel):
    """Speed of a walk. Measured on flat ground."""

    metres: float = Field(default=1.5, gt=0, lt=4)
    """Metres in a second."""


class Bus(BaseModel):
    """Ride in a bus."""

    kind: Literal["bus"] = "bus"
    line: int | None = Field(default=None, ge=1)
    """Number of the line; None: the next bus."""


class Train(BaseModel):
    """Ride in a train."""

    kind: Literal["train"] = "train"
    seat: tuple[int, str] | None = (12, "A")
    """Wagon and seat."""


class Trip(BaseModel):
    """Recipe of a trip."""

    name: str
    """Name of
    the trip."""
    pace: Pace = Pace(metres=2)
    stops: tuple[Pace, ...] = ()
    """Walks between two rides."""
    ride: Annotated[Bus | Train, Field(discriminator="kind")] = Train()
    """The ride."""
    prices: dict[str, float] = {"adult": 2.5}
    """Price by person."""
    days: tuple[Literal["mon", "tue"], ...] = ("mon",)
    """Days of departure."""


class LongTrip(Trip):
    """Recipe with another default of a key that keeps its meaning."""

    days: tuple[Literal["mon", "tue"], ...] = ()


def key_of(model: type[BaseModel], name: str) -> RecipeKey:
    return next(key for key in recipe_keys(model) if key.key == name)


def test_each_key_has_type_default_and_meaning_in_the_order_of_the_recipe() -> None:
    assert recipe_keys(Trip) == [
        RecipeKey("name", "string", "required", "Name of the trip."),
        RecipeKey("pace", "table", "", "Speed of a walk."),
        RecipeKey("pace.metres", "float > 0, < 4", "2.0", "Metres in a second."),
        RecipeKey("stops", "list of table", "[]", "Walks between two rides."),
        RecipeKey("stops[].metres", "float > 0, < 4", "1.5", "Metres in a second."),
        RecipeKey("ride", "table", '{kind = "train"}', "The ride."),
        RecipeKey("ride[kind=bus]", "table", "", "Ride in a bus."),
        RecipeKey("ride[kind=bus].line", "integer >= 1", "none", "Number of the line; None: the next bus."),
        RecipeKey("ride[kind=train]", "table", "", "Ride in a train."),
        RecipeKey("ride[kind=train].seat", "list of 2: integer, string or none", '[12, "A"]', "Wagon and seat."),
        RecipeKey("prices", "table of float", "{adult = 2.5}", "Price by person."),
        RecipeKey("days", 'list of "mon" | "tue"', '["mon"]', "Days of departure."),
    ]


def test_a_recipe_that_extends_another_shows_its_own_default_and_the_inherited_meaning() -> None:
    assert key_of(LongTrip, "days") == RecipeKey("days", 'list of "mon" | "tue"', "[]", "Days of departure.")


def test_the_text_holds_every_key_and_is_not_wider_than_80_columns() -> None:
    lines = keys_text(recipe_keys(Trip)).splitlines()
    assert lines[:4] == ["name  string, required", "    Name of the trip.", "pace  table", "    Speed of a walk."]
    assert max(map(len, keys_text([RecipeKey("a", "string", "x " * 99, "y " * 99)]).splitlines())) <= WIDTH


@pytest.mark.parametrize("command", MODELS)
def test_each_key_of_each_command_has_a_meaning(command: str) -> None:
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    keys = recipe_keys(recipe_model(command))
    assert not [key.key for key in keys if not key.meaning]
    assert len({key.key for key in keys}) == len(keys)
    assert max(map(len, keys_text(keys).splitlines())) <= WIDTH


def test_a_command_prints_the_keys_of_its_recipe_without_a_recipe() -> None:
    printed = CliRunner().invoke(app, ["data", "mix", "--keys"])
    assert printed.exit_code == 0
    assert printed.output == keys_text(recipe_keys(MixRecipe)) + "\n"
    as_json = CliRunner().invoke(app, ["data", "mix", "--keys-json"])
    assert json.loads(as_json.output) == [asdict(key) for key in recipe_keys(MixRecipe)]


@pytest.mark.parametrize("command", MODELS)
def test_each_command_with_a_recipe_has_the_option(command: str) -> None:
    helped = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert "--keys" in helped.output and "--keys-json" in helped.output
