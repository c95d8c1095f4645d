"""Every recipe of the repository is one of the command that its first lines give for it, keys and all."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from pydantic import BaseModel

from modelstack.data.mix import MixRecipe
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.synthetic.recipe import SyntheticRecipe
from modelstack.data.tools.recipe import ToolDataRecipe
from modelstack.preferences.recipe import PreferenceRecipe
from modelstack.preferences.reward.recipe import RewardRecipe
from modelstack.reasoning.distil.recipe import DistilRecipe
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.rejection.recipe import SampleRecipe
from modelstack.recipe_file import read_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.train.run.recipe import RunRecipe
from modelstack.train.run.sweep import SweepRecipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
KINDS: dict[str, type[BaseModel]] = {
    "data": DataRecipe,
    "mix": MixRecipe,
    "synthesise": SyntheticRecipe,
    "tool-data": ToolDataRecipe,
    "train": RunRecipe,
    "sweep": SweepRecipe,
    "sft": SftRecipe,
    "prefer": PreferenceRecipe,
    "reward": RewardRecipe,
    "reinforce": PolicyRecipe,
    "ppo": PpoRecipe,
    "sample": SampleRecipe,
    "distil": DistilRecipe,
    "merge": MergeRecipe,
}


def commands_of(file: Path) -> list[tuple[str, list[str]]]:
    """Return the commands that a recipe's comment gives for it, each with the keys over it."""
    line = rf"^# +modelstack ([a-z-]+) recipes/{re.escape(file.name)}(?: (.*))?$"
    found = re.findall(line, file.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        (command, [word for word in shlex.split(rest.rstrip("\\"), comments=True) if "=" in word])
        for command, rest in found
    ]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_one_of_its_command(file: Path) -> None:
    commands = commands_of(file)
    assert commands, f"{file.name} does not say how it is run"
    for command, overrides in commands:
        assert isinstance(read_recipe(KINDS[command], file, overrides), KINDS[command])
