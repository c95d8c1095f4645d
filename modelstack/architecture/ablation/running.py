"""All runs of an ablation, side by side in processes, each stored when it ends: a started folder is continued.

A run is a choice and a seed. Its file holds what it was made from (a hash of config, budget and text), so a
changed recipe does not take an old result for its own.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelstack.architecture.ablation.choices import BASE_CHOICE, Choice
from modelstack.architecture.ablation.text import Text, read_text
from modelstack.architecture.ablation.training import Budget, Outcome, train
from modelstack.architecture.config import ModelConfig
from modelstack.files import replacing
from modelstack.processes import worker_context


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    base: ModelConfig
    choices: tuple[Choice, ...]
    """Without the base, which always runs."""
    budget: Budget
    seeds: tuple[int, ...]
    paths: tuple[Path, ...]
    """Text; none: Python's library."""

    def runs(self) -> Iterator[tuple[Choice, int]]:
        """Give all runs, seed by seed, so that an early stop leaves whole comparisons."""
        for seed in self.seeds:
            for choice in (BASE_CHOICE, *self.choices):
                yield choice, seed


Outcomes = dict[tuple[str, int], Outcome]
"""By name of the choice and seed."""


def run(
    plan: Plan,
    folder: Path,
    *,
    n_processes: int | None = None,
    on_finished: Callable[[str, int, Outcome], None] = lambda name, seed, outcome: None,
) -> Outcomes:
    """Do what is not done, and return all outcomes.

    Args:
        plan: The runs.
        folder: Where each outcome is kept, and found again.
        n_processes: Side by side, one thread each; None: as many as there are cores.
        on_finished: Called for each run, found or made.

    Raises:
        UserError: The text cannot be read, or a choice cannot be.
    """
    text = read_text(plan.paths)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: Outcomes = {}
    todo: list[tuple[Choice, int, Path, str]] = []
    for choice, seed in plan.runs():
        path = folder / f"{choice.name}-{seed}.json"
        key = _key(choice.config(plan.base), plan.budget, text)
        if (found := _read(path, key)) is None:
            todo.append((choice, seed, path, key))
            continue
        outcomes[choice.name, seed] = found
        on_finished(choice.name, seed, found)
    if not todo:
        return outcomes
    n_processes = min(n_processes or len(os.sched_getaffinity(0)), len(todo))
    with ProcessPoolExecutor(n_processes, mp_context=worker_context(), initializer=_one_thread) as pool:
        futures: dict[Future[Outcome], tuple[Choice, int, Path, str]] = {}
        for choice, seed, path, key in todo:
            config = choice.config(plan.base)
            future = pool.submit(_run_one, config.model_dump(), plan.paths, plan.budget, seed)
            futures[future] = (choice, seed, path, key)
        try:
            while futures:
                done, _ = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    choice, seed, path, key = futures.pop(future)
                    outcomes[choice.name, seed] = outcome = future.result()
                    _write(path, key, outcome)
                    on_finished(choice.name, seed, outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return outcomes


def _run_one(config: Mapping[str, Any], paths: Sequence[Path], budget: Budget, seed: int) -> Outcome:
    return train(ModelConfig.model_validate(config), read_text(paths), budget, seed)


def _one_thread() -> None:
    """Small matrices gain nothing from threads, and two teams on the same cores wait for each other."""
    import torch

    torch.set_num_threads(1)


def _key(config: ModelConfig, budget: Budget, text: Text) -> str:
    return hashlib.sha256(
        "\n".join((config.fingerprint(), budget.model_dump_json(), text.fingerprint)).encode()
    ).hexdigest()


def _read(path: Path, key: str) -> Outcome | None:
    """Return a stored outcome of the same config, budget and text; anything else is run anew."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if stored.get("key") != key:
        return None
    outcome = stored["outcome"]
    return Outcome(**outcome | {"curve": tuple((step, value) for step, value in outcome["curve"])})


def _write(path: Path, key: str, outcome: Outcome) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "outcome": asdict(outcome)}, indent=1), encoding="utf-8")
