"""Writes tasks, trains with every seed, and measures; existing results are reused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from agentkit.models.local.shipped import shipped_folder
from evals.post_training.seeds import results_of_seeds
from evals.post_training.verifiable.kinds import (
    HELD_BACK_SEED,
    N_HELD_BACK,
    N_TRAINING,
    TRAINING_SEED,
    Kind,
)
from evals.post_training.verifiable.measuring import Asking, Rates, kept_rates, rates
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of
from modelstack.independent_runs import Place
from modelstack.posttrain.lora.unpack import unpack
from modelstack.posttrain.stages.stage import ADAPTER_GGUF
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.run import reinforce
from modelstack.reasoning.tasks.task import read_tasks
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.tasks.writing.written import Side, tasks_of, write_tasks
from modelstack.recipe_file import read_recipe

TRAINING, HELD_BACK, FIGURES, RUNS, START = "train.jsonl", "held-back.jsonl", "figures", "runs", "start"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Settings of an experiment."""

    kind: Kind
    weights: Path
    """GGUF file of the base."""
    model: str
    """Catalog id of the base."""
    seeds: Sequence[int]
    overrides: Sequence[str] = ()
    """Overrides of recipe keys, `key=value`."""
    n_held_back: int = N_HELD_BACK
    n_samples: int = 4


@dataclass(frozen=True, slots=True)
class OfSeed:
    """Training with one seed."""

    seed: int
    folder: Path
    after: Rates


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of an experiment."""

    wanted: Wanted
    recipe: PolicyRecipe
    before: Rates
    seeds: tuple[OfSeed, ...]


def run(wanted: Wanted, out: Path, console: Console, on: Place = "local") -> Outcome:
    """Run or resume an experiment.

    Args:
        wanted: Kind, base, seeds and sizes.
        out: Folder of the experiment; on Ray, all machines see it.
        console: Shows progress.
        on: Where the seeds run.

    Raises:
        UserError: the folder holds another experiment, a recipe is not valid, a reward was hacked, or the run was
            asked to stop.
    """
    kind, out = wanted.kind, out.resolve()
    recipe = read_recipe(PolicyRecipe, kind.recipe, [*wanted.overrides, *_places(wanted, out)])
    _claim(wanted, recipe, out)
    _written(out / TRAINING, kind, "train", N_TRAINING, TRAINING_SEED)
    _written(out / HELD_BACK, kind, "held-back", wanted.n_held_back, HELD_BACK_SEED)
    start = _start(wanted, out)
    recipe = recipe.model_copy(
        update={"base": str(start or wanted.weights), "weights": str(wanted.weights) if start else None}
    )
    before = _asked(wanted, recipe, out, console, "before", start and start / ADAPTER_GGUF)
    work, threads = partial(_of_seed, wanted, recipe, out), recipe.threads or os.cpu_count() or 1
    found = results_of_seeds(work, wanted.seeds, console, on=on, threads=threads)
    return Outcome(wanted, recipe, before, tuple(found))


def _of_seed(wanted: Wanted, recipe: PolicyRecipe, out: Path, seed: int, console: Console) -> OfSeed:
    folder = out / RUNS / f"seed-{seed}"
    if reinforce(recipe.model_copy(update={"seed": seed}), folder, console) is None:
        raise UserError("stopped; run the same command to resume")
    return OfSeed(seed, folder, _asked(wanted, recipe, out, console, f"seed-{seed}", folder / ADAPTER_GGUF))


def _places(wanted: Wanted, out: Path) -> list[str]:
    return [
        f"base={json.dumps(str(wanted.weights))}",
        f"data.training={json.dumps([str(out / TRAINING)])}",
        f"data.validation={json.dumps([str(out / HELD_BACK)])}",
    ]


def _claim(wanted: Wanted, recipe: PolicyRecipe, out: Path) -> None:
    """Reserve a folder for one experiment; seeds may be added later."""
    file = out / "experiment.json"
    told = recipe.model_dump(mode="json", exclude={"base", "weights", "data", "seed"})
    claim: dict[str, Any] = {
        "task": wanted.kind.name,
        "base_sha256": sha256_of(wanted.weights),
        "recipe": told,
        "n_held_back": wanted.n_held_back,
        "n_samples": wanted.n_samples,
    }
    if file.is_file() and (known := json.loads(file.read_text(encoding="utf-8"))) != claim:
        differs = sorted(key for key in claim if known.get(key) != claim[key])
        raise UserError(f"{out} holds another experiment, its {', '.join(differs)} differs: give another --out")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(claim, indent=2) + "\n", encoding="utf-8")


def _written(file: Path, kind: Kind, side: Side, n: int, seed: int) -> None:
    if not file.is_file():
        write_tasks(file, tasks_of(kind.source(seed), side, n, seed))


def _start(wanted: Wanted, out: Path) -> Path | None:
    """Return the stage to train, or None for the base itself."""
    if not wanted.kind.has_tool_adapter:
        return None
    shipped = shipped_folder(wanted.model)
    if shipped is None:
        raise UserError(f"{wanted.kind.name} begins with the adapter for tools, and {wanted.model!r} has none")
    return unpack(shipped, wanted.weights, out / START).path


def _asked(
    wanted: Wanted, recipe: PolicyRecipe, out: Path, console: Console, name: str, adapter: Path | None
) -> Rates:
    """Return the rates of an adapter on the held-back tasks, measured once."""
    plan, verifier = recipe.sampling, wanted.kind.verifier
    asking = Asking(plan.max_tokens, plan.temperature, wanted.n_samples, n_threads=recipe.threads or 1)
    tasks = [task.judged_by(verifier) for task in read_tasks(out / HELD_BACK)]
    with console.status(f"{name}: {len(tasks)} held-back tasks"):
        found = kept_rates(
            out / FIGURES / f"{name}.json",
            lambda: rates(wanted.weights, adapter, tasks, verifier_of(verifier), asking),
        )
    console.print(f"{name}: greedy {found.greedy}, sampled {found.sampled}", markup=False, highlight=False)
    return found
