"""Trains a sparse autoencoder in its own process with modelstack or SAELens, on states in a file.

The states are raw bfloat16 rows. Both programs get the same batches in the same order, as float32; the time of
reading them is not counted. Both are told the same sizes, learning rate, warm-up and decay; SAELens keeps its
other defaults. The result is a folder that either program loads, and one line of JSON.

    python -m evals.speed.sae_worker '{"program": "modelstack", "states": "states.bf16", ...}'
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OURS, PEER, LOADED = "modelstack", "sae-lens", "sae-lens loads"
"""Programs; the last one loads our folder in SAELens and returns its largest difference."""
DEAD_AFTER = 500_000
"""Tokens without firing after which a latent is dead, in both programs."""
N_COMPARED = 512
"""States at which the outputs of both programs are compared."""


@dataclass(frozen=True, slots=True)
class SaeTask:
    """A training of the benchmark."""

    program: str
    states: str
    """File of the states."""
    width: int
    out: str
    """Folder of the autoencoder."""
    latents: int
    k: int
    tokens: int
    batch: int
    rate: float
    warmup: int
    decay: int
    """Steps of warm-up and of decay."""
    seed: int
    threads: int
    precision: str = "fp32"
    """Number type of modelstack's scores."""
    model: str = "known states"
    weights_sha256: str = "0" * 64
    layer: int = 0
    row_tokens: int = 1
    skip_first: int = 0
    """Origin of the states: with it, `modelstack sae features` opens the folder."""


class TimedBatches:
    """Batches of states in a seeded order, round after round, with the time that reading takes."""

    def __init__(self, task: SaeTask) -> None:
        size = Path(task.states).stat().st_size // 2
        flat = torch.from_file(task.states, shared=False, size=size, dtype=torch.bfloat16)
        self._states_ND = flat.view(-1, task.width)
        self._batch = task.batch
        self._generator = torch.Generator().manual_seed(task.seed)
        self._order: Iterator[Tensor] = iter(())
        self.seconds = 0.0

    def __iter__(self) -> TimedBatches:
        return self

    def __next__(self) -> Tensor:
        started = time.perf_counter()
        places = next(self._order, None)
        if places is None:
            order = torch.randperm(len(self._states_ND), generator=self._generator)
            self._order = iter(order[: len(order) // self._batch * self._batch].split(self._batch))
            places = next(self._order)
        found = self._states_ND[places].float()
        self.seconds += time.perf_counter() - started
        return found


def trained_by_modelstack(task: SaeTask, batches: TimedBatches) -> None:
    """Train with this project, and save."""
    from modelstack.align.sae.hook_point import HookPoint
    from modelstack.align.sae.sae_folder import SaeOrigin, save_sae
    from modelstack.align.sae.sae_recipe import SaeForm
    from modelstack.align.sae.trainer import SaeTrainer
    from modelstack.train.process import set_up_process
    from modelstack.train.schedules import ScheduleConfig

    set_up_process(task.threads)
    form = SaeForm.model_validate(
        {"latents": task.latents, "k": task.k, "precision": task.precision, "dead_after": DEAD_AFTER}
    )
    n_steps = task.tokens // task.batch
    factors = ScheduleConfig(
        kind="wsd", warmup_steps=task.warmup, total_steps=n_steps, decay_steps=max(1, task.decay)
    )
    trainer = SaeTrainer(form, task.width, task.width, rate=task.rate, factors=factors, seed=task.seed)
    first = next(batches)
    trainer.begin(first, first)
    for _ in range(n_steps):
        trainer.step(next(batches))
    origin = SaeOrigin(
        model=task.model,
        weights_sha256=task.weights_sha256,
        hook=HookPoint(layer=task.layer),
        recipe_sha256="0" * 64,
        row_tokens=task.row_tokens,
        skip_first=task.skip_first,
        n_tokens=trainer.n_tokens,
    )
    save_sae(Path(task.out), trainer.finished(), origin)


def trained_by_saelens(task: SaeTask, batches: TimedBatches) -> None:
    """Train with SAELens, and save for inference."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig  # pyright: ignore
    from sae_lens.config import LoggingConfig, SAETrainerConfig  # pyright: ignore
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore

    torch.manual_seed(task.seed)
    config = BatchTopKTrainingSAEConfig(
        d_in=task.width, d_sae=task.latents, k=task.k, normalize_activations="expected_average_only_in"
    )
    wanted = SAETrainerConfig(
        total_training_samples=task.tokens // task.batch * task.batch,
        train_batch_size_samples=task.batch,
        lr=task.rate,
        lr_end=task.rate / 10,  # its default; the decay ends at 0 all the same
        lr_warm_up_steps=task.warmup,
        lr_decay_steps=task.decay,
        dead_feature_window=math.ceil(DEAD_AFTER / task.batch),
        n_batches_for_norm_estimate=1,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer: Any = SAETrainer(wanted, BatchTopKTrainingSAE(config), batches)
    trainer.fit().save_inference_model(task.out)


def largest_difference(task: SaeTask, batches: TimedBatches) -> float:
    """Return the largest difference of the outputs of a folder in both programs, over the largest output."""
    from sae_lens import SAE  # pyright: ignore

    from modelstack.align.sae.sae_folder import load_sae

    x_ND = next(batches)[:N_COMPARED]
    with torch.no_grad():
        ours, theirs = load_sae(task.out).autoencoder(x_ND), SAE.load_from_disk(task.out)(x_ND)
    return float((ours - theirs).abs().max() / ours.abs().max())


def work(task: SaeTask) -> dict[str, float]:
    """Do a task; return its figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(task.threads)
    batches = TimedBatches(task)
    if task.program == LOADED:
        return {"difference": largest_difference(task, batches)}
    started = time.perf_counter()
    (trained_by_modelstack if task.program == OURS else trained_by_saelens)(task, batches)
    seconds = time.perf_counter() - started - batches.seconds
    return {"seconds": seconds, "tokens_per_s": task.tokens / seconds}


def task_to_json(task: SaeTask) -> str:
    """Return a task as one line of JSON."""
    return json.dumps(asdict(task))


def main() -> int:
    """Do the task of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=lambda line: SaeTask(**json.loads(line)))
    print(json.dumps(work(parser.parse_args().task)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
