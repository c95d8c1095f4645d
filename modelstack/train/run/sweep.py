"""Runs of several sizes at several compute budgets, to fit a scaling law of one's own (IsoFLOP; Hoffmann et al.).

Every run has its own schedule, decayed to its end: a loss taken on the way of a longer run is no loss of a shorter
one, which is what misled the laws before Chinchilla (arXiv 2203.15556, section 3). All share one tokenizer, one
order of data and one held-out text. A finished run is a line of `runs.jsonl`; a sweep that was stopped goes on
with the runs that are not there.

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
from modelstack.files import replacing
from modelstack.independent_runs import Place, finished_runs
from modelstack.run_folder import RunFolder
from modelstack.train.run.prepare import prepare
from modelstack.train.run.recipe import Resolved, RunRecipe, ScheduleRecipe, resolve
from modelstack.train.run.short_run import train_and_score

RUNS_FILE = "runs.jsonl"
FEWEST_STEPS = 20
"""A shorter run is warm-up and decay alone."""


class SweepRecipe(BaseModel, frozen=True, extra="forbid"):
    """What is varied, and what all runs have in common."""

    budgets: tuple[float, ...] = Field(min_length=1)
    """FLOPs of a run, 6 N D."""
    sizes: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Of each size the keys that differ from `run.model`'s, as `model.config` takes them."""
    warmup_share: float = Field(default=0.02, ge=0, lt=0.5)
    decay_share: float = Field(default=0.4, gt=0, lt=0.95)
    workers: int = Field(default=1, ge=1)
    """Runs at once, each with `run.threads` threads."""
    run: RunRecipe
    """The rest; its `steps` are not looked at."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a sweep."""

    size: int
    budget: float
    n_parameters: int
    """As the laws count them."""
    resolved: Resolved

    @property
    def n_tokens(self) -> int:
        """Return what it trains on."""
        return self.resolved.steps * self.resolved.rows * self.resolved.row_tokens

    @property
    def key(self) -> str:
        """Return what a finished run is known by."""
        return self.resolved.fingerprint


def planned_runs(recipe: SweepRecipe, vocab_size: int) -> list[Planned]:
    """Return the runs of a sweep, the dearest first, so that workers end together.

    Args:
        recipe: The sweep.
        vocab_size: Of the tokenizer that all share.

    Raises:
        UserError: A size cannot be, or a run would have too few steps.
    """
    runs = [
        _planned(recipe, number, changes, budget, vocab_size)
        for budget in recipe.budgets
        for number, changes in enumerate(recipe.sizes)
    ]
    return sorted(runs, key=lambda run: (run.budget, run.n_tokens), reverse=True)


def _planned(recipe: SweepRecipe, number: int, changes: dict[str, Any], budget: float, vocab_size: int) -> Planned:
    run = recipe.run
    assert run.model and run.rows  # the recipe's own check: a sweep obeys no plan
    model = run.model.model_copy(update={"config": run.model.config | changes})
    shaped = resolve(run.model_copy(update={"model": model}))
    n_parameters = law_parameters(shaped.model.with_(vocab_size=vocab_size))
    steps = round(budget / 6 / n_parameters / (run.rows * shaped.row_tokens))
    if steps < FEWEST_STEPS:
        raise UserError(
            f"size {number} ({n_parameters:,} parameters) has {steps} steps of {run.rows * shaped.row_tokens:,} "
            f"tokens in a budget of {budget:.3g}; at least {FEWEST_STEPS} make a run: lower run.rows"
        )
    schedule = ScheduleRecipe(
        warmup_steps=round(recipe.warmup_share * steps), decay_steps=max(1, round(recipe.decay_share * steps))
    )
    changed = run.model_copy(update={"model": model, "steps": steps, "schedule": schedule})
    return Planned(number, budget, n_parameters, resolve(changed))


def sweep(
    recipe: SweepRecipe, path: Path, told: Callable[[str], object] = lambda text: None, *, on: Place = "local"
) -> Path:
    """Take the runs that are not there yet; return the file of all.

    Args:
        recipe: The sweep.
        path: Folder of the sweep; on Ray, all machines see it.
        told: Receives lines of progress.
        on: Where the runs are taken.

    Raises:
        UserError: A run cannot be, the folder holds another sweep's text, or the process of a run was killed.
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
    told(f"{len(open_runs)} of {len(runs)} runs to take")
    if not open_runs:
        return file
    take = partial(_take, path=path)
    threads = recipe.run.threads or 1
    for _, record in finished_runs(take, open_runs, on=on, at_once=recipe.workers, threads=threads):
        _append(file, record)
        told(
            f"{record['n_parameters']:,} parameters, {record['n_tokens']:,} tokens: loss "
            f"{record['loss']:.4f}, {record['bits_per_byte']:.4f} bits a byte, {record['seconds']:.0f} s"
        )
    return file


def _take(run: Planned, path: Path) -> dict[str, Any]:
    """Train and measure one run; in a process of its own."""
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
    """Give the finished runs."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _append(file: Path, record: dict[str, Any]) -> None:
    data = "".join(json.dumps(each) + "\n" for each in [*_records(file), record])
    with replacing(file) as temporary:
        temporary.write_text(data, encoding="utf-8")
