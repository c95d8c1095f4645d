"""All runs of an ablation in parallel processes.

Each result is stored at once, so a stopped ablation can be resumed.

A run is a choice and a seed. Its file contains a hash of config, budget and text, so a changed recipe does not
reuse an old result.
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
    """The runs of an ablation."""

    base: ModelConfig
    choices: tuple[Choice, ...]
    """Compared choices, without the base, which always runs."""
    budget: Budget
    seeds: tuple[int, ...]
    paths: tuple[Path, ...]
    """Paths of the text; empty: Python's standard library."""

    def runs(self) -> Iterator[tuple[Choice, int]]:
        """Yield all runs, seed by seed, so that after an early stop the finished seeds are complete."""
        for seed in self.seeds:
            for choice in (BASE_CHOICE, *self.choices):
                yield choice, seed


Outcomes = dict[tuple[str, int], Outcome]
"""Outcomes by choice name and seed."""


def run(
    plan: Plan,
    folder: Path,
    *,
    n_processes: int | None = None,
    on_finished: Callable[[str, int, Outcome], None] = lambda name, seed, outcome: None,
) -> Outcomes:
    """Run the missing runs and return all outcomes.

    Args:
        plan: The runs.
        folder: Folder in which outcomes are stored and looked up.
        n_processes: Number of parallel processes with one thread each; None: one per core.
        on_finished: Called for each run, stored or new.

    Raises:
        UserError: The text cannot be read, or a choice gives an invalid config.
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
    """Use one thread: small matrices gain nothing from more, and threads of several processes block each other."""
    import torch

    torch.set_num_threads(1)


def _key(config: ModelConfig, budget: Budget, text: Text) -> str:
    return hashlib.sha256(
        "\n".join((config.fingerprint(), budget.model_dump_json(), text.fingerprint)).encode()
    ).hexdigest()


def _read(path: Path, key: str) -> Outcome | None:
    """Return a stored outcome of the same config, budget and text; None: the run must be repeated."""
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
