"""Trains several sizes at several compute budgets, to fit a scaling law (IsoFLOP; Hoffmann et al.).

Every run has its own schedule with a complete decay: the loss midway through a longer run is not the loss of a
shorter one, an error of the scaling laws before Chinchilla (arXiv 2203.15556, section 3). All runs share
tokenizer, data order and held-out text. A finished run is a line of `runs.jsonl`; a resumed sweep continues with
the missing runs.

Letters: N parameters, D tokens, C = 6 N D.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from modelstack.decide.budget import law_parameters
from modelstack.errors import UserError
from modelstack.files import json_lines, replacing
from modelstack.independent_runs import Place, finished_runs
from modelstack.run_folder import RunFolder
from modelstack.train.run.prepare import prepare
from modelstack.train.run.recipe import Resolved, RunRecipe, ScheduleRecipe, resolve
from modelstack.train.run.short_run import train_and_score

RUNS_FILE = "runs.jsonl"
FEWEST_STEPS = 20
"""Minimum number of steps; a shorter run consists only of warm-up and decay."""


class SweepRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe of a sweep: budgets, sizes and the shared settings."""

    budgets: tuple[float, ...] = Field(min_length=1)
    """FLOPs of a run, 6 N D."""
    sizes: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Model config keys of each size, which override those of `run.model`."""
    warmup_share: float = Field(default=0.02, ge=0, lt=0.5)
    """Share of a run in which the learning rate rises."""
    decay_share: float = Field(default=0.4, gt=0, lt=0.95)
    """Share of a run in which the learning rate falls."""
    workers: int = Field(default=1, ge=1)
    """Concurrent runs, each with `run.threads` threads."""
    run: RunRecipe
    """Shared settings; `steps` is ignored."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Planned run of a sweep."""

    size: int
    budget: float
    n_parameters: int
    """Number of parameters as counted by the scaling laws."""
    resolved: Resolved

    @property
    def n_tokens(self) -> int:
        """Return the number of training tokens."""
        return self.resolved.steps * self.resolved.rows * self.resolved.row_tokens

    @property
    def key(self) -> str:
        """Return the identifier of the run in `runs.jsonl`."""
        return self.resolved.fingerprint


def planned_runs(recipe: SweepRecipe, vocab_size: int) -> list[Planned]:
    """Return the runs of a sweep, the most expensive first, so that workers finish at about the same time.

    Args:
        recipe: The sweep.
        vocab_size: Vocabulary size of the shared tokenizer.

    Raises:
        UserError: A size is not a valid model, or a run would have too few steps.
    """
    runs = [
        _planned(recipe, number, changes, budget, vocab_size)
        for budget in recipe.budgets
        for number, changes in enumerate(recipe.sizes)
    ]
    return sorted(runs, key=lambda run: (run.budget, run.n_tokens), reverse=True)


def _planned(recipe: SweepRecipe, number: int, changes: dict[str, Any], budget: float, vocab_size: int) -> Planned:
    run = recipe.run
    assert run.model and run.rows  # the recipe's validator ensures it, as a sweep has no plan
    model = run.model.model_copy(update={"config": run.model.config | changes})
    shaped = resolve(run.model_copy(update={"model": model}))
    n_parameters = law_parameters(shaped.model.with_(vocab_size=vocab_size))
    steps = round(budget / 6 / n_parameters / (run.rows * shaped.row_tokens))
    if steps < FEWEST_STEPS:
        raise UserError(
            f"size {number} ({n_parameters:,} parameters) has {steps} steps of {run.rows * shaped.row_tokens:,} "
            f"tokens in a budget of {budget:.3g}; the minimum is {FEWEST_STEPS}: lower run.rows"
        )
    schedule = ScheduleRecipe(
        warmup_steps=round(recipe.warmup_share * steps), decay_steps=max(1, round(recipe.decay_share * steps))
    )
    changed = run.model_copy(update={"model": model, "steps": steps, "schedule": schedule})
    return Planned(number, budget, n_parameters, resolve(changed))


def sweep(
    recipe: SweepRecipe, path: Path, told: Callable[[str], object] = lambda text: None, *, on: Place = "local"
) -> Path:
    """Train the missing runs; return the file of all runs.

    Args:
        recipe: The sweep.
        path: Folder of the sweep; on Ray, it must be visible on all machines.
        told: Callback for progress messages.
        on: Location of the runs.

    Raises:
        UserError: A run is not valid, the folder holds another sweep's text, or the process of a run was killed.
    """
    path = path.resolve()
    folder = RunFolder(path)
    first = resolve(recipe.run)
    path.mkdir(parents=True, exist_ok=True)
    prepared = prepare(first, folder, told)
    runs = planned_runs(recipe, len(prepared.tokenizer.vocabulary.token_bytes))
    file = path / RUNS_FILE
    done = {record["key"] for record in _records(file)}
    open_runs = [run for run in runs if run.key not in done]
    told(f"{len(open_runs)} of {len(runs)} runs to train")
    if not open_runs:
        return file
    take = partial(_take, path=path)
    threads = recipe.run.threads or 1
    for _, record in finished_runs(take, open_runs, on=on, at_once=recipe.workers, threads=threads):
        _append(file, record)
        told(
            f"{record['n_parameters']:,} parameters, {record['n_tokens']:,} tokens: loss "
            f"{record['loss']:.4f}, {record['bits_per_byte']:.4f} bits per byte, {record['seconds']:.0f} s"
        )
    return file


def _take(run: Planned, path: Path) -> dict[str, Any]:
    """Train and evaluate one run, in a separate process."""
    measured = train_and_score(run.resolved, RunFolder(path))
    score = measured.score
    return {
        "key": run.key,
        "n_parameters": run.n_parameters,
        "n_tokens": run.n_tokens,
        "loss": score.loss,
        "bits_per_byte": score.bits_per_byte,
        "budget": run.budget,
        "seconds": measured.seconds,
        "size": run.resolved.recipe.model.config if run.resolved.recipe.model else {},
    }


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of finished runs."""
    if file.exists():
        for line in json_lines(file):
            yield json.loads(line)


def _append(file: Path, record: dict[str, Any]) -> None:
    data = "".join(json.dumps(each) + "\n" for each in [*_records(file), record])
    with replacing(file) as temporary:
        temporary.write_text(data, encoding="utf-8")
