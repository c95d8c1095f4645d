"""Trainings of seconds, one for each method of post-training, on one toy base."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from modelstack.align.guard_training.recipe import GuardRecipe
from modelstack.align.guard_training.run import train_guard
from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.recipe import PreferenceRecipe
from modelstack.preferences.reward.recipe import RewardRecipe
from modelstack.preferences.reward.run import train_reward_model
from modelstack.preferences.run import prefer
from modelstack.reasoning.distil.recipe import DistilRecipe
from modelstack.reasoning.distil.run import distil
from modelstack.reasoning.drafter.recipe import DrafterRecipe
from modelstack.reasoning.drafter.run import train_drafter
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.ppo.run import optimise
from modelstack.recipe_file import checked_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune
from tests.modelstack.architecture.gguf_models import toy_config, toy_model
from tests.modelstack.sft.toy_sft import toy_values, write_base, write_data

WORDS = ("red", "green", "blue", "small", "large", "old", "new", "warm")


@dataclass(frozen=True)
class World:
    """Files that all trainings read."""

    folder: Path

    @property
    def base(self) -> Path:
        """A GGUF file."""
        return self.folder / "base" / "toy.gguf"

    @property
    def checkpoint(self) -> Path:
        """The same weights as a checkpoint folder."""
        return self.folder / "base" / "checkpoint"

    def files(self, name: str) -> dict[str, Any]:
        """Return the training and the held-back file of a kind of rows."""
        training, validation = (str(self.folder / name / f"{side}.jsonl") for side in ("train", "validation"))
        return {"training": [training], "validation": [validation]}


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_pairs(path: Path, start: int, n: int) -> None:
    """Write preferences of yes to no, whatever is asked."""
    asked = [f"is it {WORDS[i % 8]} or {WORDS[(i // 8) % 8]} {i}?" for i in range(start, start + n)]
    write_lines(path, [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in asked])


def write_tasks(path: Path, start: int, n: int, **more: Any) -> None:
    """Write tasks with a digit as gold."""
    numbers = range(start, start + n)
    write_lines(path, [{"id": str(i), "prompt": f"say {i}", "gold": str(i % 10), **more} for i in numbers])


def write_world(folder: Path) -> World:
    """Write base, teacher, reward model and rows."""
    made = World(folder)
    write_base(folder / "base")
    teacher = toy_model(toy_config("llama", max_position_embeddings=1024), seed=5)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(10)
    save_checkpoint(teacher, folder / "teacher", tokenizer=folder / "base" / "tokenizer")
    write_data(folder / "examples")
    for side, start, n in (("train", 0, 24), ("validation", 100, 6)):
        write_pairs(folder / "pairs" / f"{side}.jsonl", start, n)
        write_tasks(folder / "tasks" / f"{side}.jsonl", start, n // 3)
        write_guard_rows(folder / "verdicts" / f"{side}.jsonl", start, n)
    assert METHODS["reward"].run(made, folder / "judge", name="judge", steps=3)
    return made


def tables(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what the recipes have in common."""
    return {
        "name": "toy",
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "steps": 6,
        "rows": 4,
        "micro_batches": 2,
        "data": data,
        "lora": {"rank": 4, "alpha": 8},
        "optimizer": {"lr": 1e-2},
        "checkpoints": {"every": 2, "keep": 2},
        **changes,
    }


def _fine_tuning(world: World) -> dict[str, Any]:
    return toy_values(world.base, world.folder / "examples", steps=6, checkpoints={"every": 2, "keep": 2})


def _preferences(world: World) -> dict[str, Any]:
    return tables(world.files("pairs") | {"row_tokens": 128}, base=str(world.base))


def _policy(world: World) -> dict[str, Any]:
    """Return four steps on a rollout; rewards differ by how often a reply repeats itself."""
    return tables(
        world.files("tasks") | {"verifier": {"name": "math", "repetition": 0.2}},
        base=str(world.base),
        rows=2,
        sampling={"group": 6, "max_tokens": 12, "temperature": 0.4},
        rollout={"epochs": 2, "minibatches": 2},
    )


def _ppo(world: World) -> dict[str, Any]:
    """Return four steps on a batch of replies, with a coefficient that moves."""
    return tables(
        world.files("tasks"),
        base=str(world.base),
        reward=str(world.folder / "judge"),
        rows=8,
        passes=2,
        sampling={"prompts": 4, "group": 4, "max_tokens": 5},
        critic={"lr": 1e-2},
        kl={"coefficient": 0.1, "control": {"target": 0.5}},
    )


def _distillation(world: World) -> dict[str, Any]:
    values = tables(
        world.files("examples") | {"row_tokens": 512},
        base=str(world.checkpoint),
        teacher=str(world.folder / "teacher"),
        teacher_precision="fp32",
        train="full",
        on_policy={"share": 0.6, "max_tokens": 5},
        optimizer={"lr": 3e-3},
    )
    del values["lora"]
    return values


def write_guard_rows(path: Path, start: int, n: int) -> None:
    """Write requests that are unsafe if they are about a colour."""
    rows: list[dict[str, Any]] = []
    for i in range(start, start + n):
        word = WORDS[i % 8]
        unsafe = {"unsafe": True, "categories": ["S2"]} if i % 8 < 3 else {"unsafe": False, "ordinary": True}
        turns = [{"role": "user", "content": f"{word} {i}"}]
        rows.append({"id": str(i), "turns": turns, "source": "toy", "license": "CC0-1.0"} | unsafe)
    write_lines(path, rows)


def _guard(world: World) -> dict[str, Any]:
    return tables(world.files("verdicts") | {"row_tokens": 96}, base=str(world.base))


def _drafter(world: World) -> dict[str, Any]:
    values = tables(
        world.files("examples") | {"row_tokens": 512},
        base=str(world.base),
        draft_tokens=32,
        optimizer={"lr": 3e-3},
    )
    del values["lora"]
    return values


@dataclass(frozen=True)
class Method:
    """A method with its command."""

    command: str
    recipe: type[TuningRecipe]
    start: Callable[[Any, Path, Console], Stage | None]
    tables: Callable[[World], dict[str, Any]]
    killed_at: int
    """Step in the middle of what the method repeats: an epoch, a rollout, a batch of replies."""

    def values(self, world: World, **changes: Any) -> dict[str, Any]:
        """Return the recipe's tables; a change of None removes a key."""
        return {key: value for key, value in (self.tables(world) | changes).items() if value is not None}

    def run(self, world: World, folder: Path, console: Console | None = None, **changes: Any) -> Stage | None:
        """Run the recipe, or resume it."""
        recipe = checked_recipe(self.recipe, self.values(world, **changes))
        return self.start(recipe, folder, console or Console(quiet=True))


METHODS = {
    "sft": Method("sft", SftRecipe, fine_tune, _fine_tuning, killed_at=5),
    "prefer": Method("prefer", PreferenceRecipe, prefer, _preferences, killed_at=5),
    "reward": Method("reward", RewardRecipe, train_reward_model, _preferences, killed_at=5),
    "reinforce": Method("reinforce", PolicyRecipe, reinforce, _policy, killed_at=3),
    "ppo": Method("ppo", PpoRecipe, optimise, _ppo, killed_at=3),
    "distil": Method("distil", DistilRecipe, distil, _distillation, killed_at=5),
    "guard": Method("guard", GuardRecipe, train_guard, _guard, killed_at=5),
    "drafter": Method("drafter", DrafterRecipe, train_drafter, _drafter, killed_at=5),
}
