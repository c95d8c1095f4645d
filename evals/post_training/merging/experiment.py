"""Trains parents, merges them into children, and measures both skills of each; existing results are reused.

All models, including the parents, are written in Q8_0, so that they differ only by the merge and not by the number
type.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.post_training.merging.skills import HELD_BACK, SKILLS, TRAINING, Skill, held_back, write_skill
from evals.post_training.served import served_reward
from evals.statistics import Interval
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.posttrain.stages.merge import merge_stage
from modelstack.posttrain.stages.stage import MODEL_GGUF, is_stage
from modelstack.reasoning.merging.recipe import MergeRecipe
from modelstack.reasoning.merging.run import merge
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.recipe_file import checked_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune

STAGES, DATA, FIGURES = "stages", "data", "figures"
GGUF_TYPE = "q8_0"
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "slerp": {"method": "slerp", "t": 0.5},
    "task-arithmetic": {"method": "task_arithmetic"},
    "ties": {"method": "ties", "density": 0.5},
    "dare": {"method": "dare_linear", "density": 0.5},
}
"""Merge methods of the children; other parameters have the methods' defaults. None was chosen by a result."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of data and training."""

    n_training: int = 400
    n_held_back: int = 100
    epochs: float = 2.0
    rank: int = 8
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """Skills of one model."""

    name: str
    kind: str
    """Role of the model: base, parent or child."""
    rewards: dict[str, Interval]
    """Mean reward with its interval, by skill."""


def run(base: Path, out: Path, sizes: Sizes, seed: int, console: Console) -> list[Measured]:
    """Train the parents, merge them, and measure all models.

    Args:
        base: GGUF file of an instruction-tuned model.
        out: Folder of all files.
        sizes: Sizes of data and training.
        seed: Seed of data, training and DARE's random choice.
        console: Console for progress.

    Raises:
        UserError: the folder holds another experiment, or a training was interrupted; the same call resumes it.
    """
    _claim(out, sizes, seed)
    for skill in SKILLS:
        folder = out / DATA / skill.name
        if not (folder / HELD_BACK).is_file():
            write_skill(skill, folder, n_training=sizes.n_training, n_held_back=sizes.n_held_back, seed=seed)
    parents = [_parent(skill, base, out, sizes, seed, console) for skill in SKILLS]
    models: list[tuple[str, str, Path]] = [("base", "base", base)]
    for skill, parent in zip(SKILLS, parents, strict=True):
        whole = out / STAGES / f"{skill.name}-merged"
        if not is_stage(whole):
            merge_stage(parent, whole, gguf_type=GGUF_TYPE)
        models.append((skill.name, "parent", whole / MODEL_GGUF))
    for name, keys in METHODS.items():
        values = {"name": name, "parents": [str(parent) for parent in parents], "base": str(base), **keys}
        values |= {"gguf": GGUF_TYPE, "dtype": "bfloat16"} | ({"seed": seed} if name == "dare" else {})
        stage = merge(checked_recipe(MergeRecipe, values), out / STAGES / name, console)
        models.append((name, "child", stage.path / MODEL_GGUF))
    return [_measured(name, kind, path, out, sizes, console) for name, kind, path in models]


def _claim(out: Path, sizes: Sizes, seed: int) -> None:
    """Reserve a folder for one experiment."""
    file, wanted = out / "experiment.json", {"sizes": asdict(sizes), "seed": seed}
    if file.is_file() and (found := json.loads(file.read_text(encoding="utf-8"))) != wanted:
        raise UserError(f"{out} holds another experiment, of {found}: give another --out")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(wanted) + "\n", encoding="utf-8")


def _parent(skill: Skill, base: Path, out: Path, sizes: Sizes, seed: int, console: Console) -> Path:
    folder, data = out / STAGES / skill.name, out / DATA / skill.name
    recipe = {
        "name": skill.name,
        "base": str(base),
        "seed": seed,
        "rows": 2,
        "micro_batches": 2,
        "epochs": sizes.epochs,
        "threads": sizes.threads,
        "lora": {"rank": sizes.rank, "alpha": 2 * sizes.rank},
        "data": {"training": [str(data / TRAINING)], "row_tokens": 512},
    }
    if fine_tune(checked_recipe(SftRecipe, recipe), folder, console) is None:
        raise UserError("stopped; the same command resumes")
    return folder


def _measured(name: str, kind: str, model: Path, out: Path, sizes: Sizes, console: Console) -> Measured:
    file = out / FIGURES / f"{name}.json"
    if not file.is_file():
        rewards: dict[str, Interval] = {}
        for skill in SKILLS:
            tasks = held_back(skill, out / DATA / skill.name)
            with console.status(f"{name}: {skill.name}"):
                rewards[skill.name] = served_reward(
                    model, tasks, verifier_of(skill.verifier), n_threads=sizes.threads
                )
            console.print(f"{name}, {skill.name}: {rewards[skill.name]}, n = {rewards[skill.name].n}")
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(
                json.dumps({key: asdict(each) for key, each in rewards.items()}), encoding="utf-8"
            )
    found = json.loads(file.read_text(encoding="utf-8"))
    return Measured(name, kind, {key: Interval(**each) for key, each in found.items()})
