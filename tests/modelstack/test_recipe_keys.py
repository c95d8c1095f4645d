"""Keys of recipes: type, default and meaning of each, read from the recipe's model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

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
