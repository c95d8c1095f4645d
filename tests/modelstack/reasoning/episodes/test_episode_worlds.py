"""Worlds by a recipe, and which sampler it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.episodes import worlds as episode_worlds
from modelstack.reasoning.episodes.episode import EffectWorlds, EpisodePlan
from modelstack.reasoning.episodes.sampler import EpisodeSampler
from modelstack.reasoning.episodes.worlds import GROUP, EpisodeRecipe, opened_worlds
from modelstack.reasoning.rollouts.policy_sampler import Episodes, sampler_of
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.grammar_sampler import GrammarSampler
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.recipe_file import checked_recipe
from tests.modelstack.reasoning.policy.toy_policy import house_task, toy_encoder, toy_policy

life: list[str] = []


@contextmanager
def offered(options: Any) -> Iterator[EffectWorlds]:
    """Stand for the worlds of an installed package."""
    life.append(f"opened with {options}")
    yield EffectWorlds()
    life.append("left")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    life.clear()
    point = EntryPoint("toys", f"{__name__}:offered", GROUP)
    monkeypatch.setattr(episode_worlds, "entry_points", lambda group: [point] if group == GROUP else [])


def test_worlds_of_golds_need_nothing() -> None:
    with opened_worlds(EpisodeRecipe()) as worlds:
        task = house_task(("look", {}))
        assert worlds.prepared(task) is task
        with pytest.raises(UserError, match="has no tools"):
            worlds.prepared(replace(task, tools=()))
        with pytest.raises(UserError, match="has no world: its gold is str"):
            worlds.prepared(replace(task, item=Item("a", "42")))


def test_worlds_of_a_package_are_opened_with_the_recipes_options_and_left() -> None:
    recipe = checked_recipe(EpisodeRecipe, {"worlds": "toys", "options": {"size": 3}, "max_turns": 2})
    with opened_worlds(recipe) as worlds:
        assert isinstance(worlds, EffectWorlds) and life == ["opened with {'size': 3}"]
    assert life[-1] == "left"


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (EpisodeRecipe(worlds="mars"), "episodes.worlds is 'mars'; known names: golds, toys"),
        (EpisodeRecipe(options={"size": 3}), r"episodes.options are \['size'\]; worlds = 'golds' takes none"),
    ],
    ids=["unknown", "options"],
)
def test_worlds_that_nobody_offers_are_refused(recipe: EpisodeRecipe, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint), opened_worlds(recipe):
        pass


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, GroupSampler),
        ({"with_grammar": True}, GrammarSampler),
        ({"episodes": Episodes(EffectWorlds(), EpisodePlan())}, EpisodeSampler),
    ],
    ids=["free", "grammar", "episodes"],
)
def test_a_recipe_asks_for_a_sampler(options: dict[str, Any], kind: type) -> None:
    policy = TorchPolicy(toy_policy())
    assert isinstance(sampler_of(policy, toy_encoder(), max_tokens=9, temperature=1.0, **options), kind)
