"""The two programs of `train_to_loss`: nanoGPT's model with its recipe, and a modelstack model with its own.

nanoGPT's `model.py` is loaded from a checkout given by the caller. Its training code is a script, so the loop is
reimplemented here by the same rules: random crops of one long stream, AdamW of `configure_optimizers` (0.9, 0.99,
decay 0.1), linear warm-up and cosine decay to a tenth, gradients clipped at 1, fp32, not compiled, as it runs on a
CPU. modelstack uses the ordinary loop of `modelstack.train` on packed rows with document masks.

Seconds measure training (data, passes and optimizer) without evaluation.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from evals.speed.loss_corpus import VOCAB_SIZE, LossCorpus, Side, bits_per_byte
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.presets.registry import from_hf
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shards import Shards
from modelstack.errors import UserError
from modelstack.train.loop import LoopConfig, Run, train
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.schedules import ScheduleConfig, schedule
from modelstack.train.step import local_state

ROW_TOKENS = 256
"""Number of tokens per row (T) of both programs."""
CLIP_NORM = 1.0


class NanoGptRecipe(BaseModel, frozen=True, extra="forbid"):
    """Settings of nanoGPT; its own names are in brackets."""

    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    heads: int = Field(gt=0)
    rows: int = Field(gt=0)
    """[batch_size]"""
    micro_batches: int = Field(gt=0)
    """[gradient_accumulation_steps]"""
    steps: int = Field(gt=0)
    """[max_iters and lr_decay_iters]"""
    warmup_steps: int = Field(ge=0)
    """[warmup_iters]"""
    lr: float = Field(gt=0)
    """[learning_rate]; [min_lr] is a tenth of it."""

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens of the whole run."""
        return self.steps * self.rows * self.micro_batches * ROW_TOKENS


class ModelstackRecipe(BaseModel, frozen=True, extra="forbid"):
    """Settings of modelstack."""

    model: dict[str, Any]
    """Model configuration as in `config.json`, without the vocabulary."""
    optimizer: OptimizerConfig
    rows: int = Field(gt=0)
    steps: int = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    decay_steps: int = Field(gt=0)

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens of the whole run, including padding."""
        return self.steps * self.rows * ROW_TOKENS


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run."""

    bits_per_byte: float
    n_tokens: int
    seconds: float
    cpu_seconds: float
    n_parameters: int
    losses: tuple[float, ...]
    """Loss of each step on its own batch, in nats per token."""


def train_modelstack(recipe: ModelstackRecipe, corpus: LossCorpus, side: Side, seed: int) -> Outcome:
    """Train modelstack's model and evaluate it."""
    model = initialise(CausalLM(from_hf({**recipe.model, "vocab_size": VOCAB_SIZE})), seed, zero_outputs=True)
    factor = schedule(
        ScheduleConfig(warmup_steps=recipe.warmup_steps, total_steps=recipe.steps, decay_steps=recipe.decay_steps)
    )
    packing = PackingConfig(row_tokens=ROW_TOKENS, seed=seed)
    run = Run(
        LoopConfig(n_steps=recipe.steps, max_norm=CLIP_NORM),
        local_state(model, build_optimizer(model, recipe.optimizer)),
        PackedLoader(corpus.sides["train"], packing, rows_per_batch=recipe.rows),
        factor,
    )
    watch = _Watch()
    losses = tuple(report.losses["total"] for report in train(run))
    seconds, cpu_seconds = watch.read()
    model.eval()
    bits = bits_per_byte(lambda ids_BT: model(ids_BT).logits_BTV, corpus, side, ROW_TOKENS)
    return Outcome(bits, recipe.n_tokens, seconds, cpu_seconds, _n_parameters(model), losses)


def train_nanogpt(recipe: NanoGptRecipe, checkout: Path, corpus: LossCorpus, side: Side, seed: int) -> Outcome:
    """Train nanoGPT's model by its recipe and evaluate it.

    Raises:
        UserError: the checkout has no `model.py`.
    """
    torch.manual_seed(seed)
    model, optimizer = _nanogpt(recipe, checkout)
    batches = _crops(corpus.sides["train"], recipe.rows, torch.Generator().manual_seed(seed))
    watch = _Watch()
    losses = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = nanogpt_lr(recipe, step)
        total = 0.0
        for _ in range(recipe.micro_batches):
            ids_BT, labels_BT = next(batches)
            loss = model(ids_BT, labels_BT)[1] / recipe.micro_batches
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    seconds, cpu_seconds = watch.read()
    model.eval()
    # Without targets, nanoGPT returns only the last token's logits; the values of the targets do not affect the
    # logits.
    bits = bits_per_byte(lambda ids_BT: model(ids_BT, ids_BT)[0], corpus, side, ROW_TOKENS)
    return Outcome(bits, recipe.n_tokens, seconds, cpu_seconds, _n_parameters(model), tuple(losses))


def nanogpt_lr(recipe: NanoGptRecipe, step: int) -> float:
    """Return the learning rate of a step by nanoGPT's rule; steps count from 0."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / (recipe.warmup_steps + 1)
    lowest = recipe.lr / 10
    share = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return lowest + 0.5 * (1 + math.cos(math.pi * share)) * (recipe.lr - lowest)


def _nanogpt(recipe: NanoGptRecipe, checkout: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    file = checkout / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"{checkout} holds no model.py: name a checkout of karpathy/nanoGPT with --nanogpt")
    module = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):  # nanoGPT prints its sizes
        spec.loader.exec_module(module)
        config = module.GPTConfig(
            block_size=ROW_TOKENS,
            vocab_size=VOCAB_SIZE,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_embd=recipe.width,
            dropout=0.0,
            bias=False,
        )
        model = module.GPT(config)
        optimizer = model.configure_optimizers(0.1, recipe.lr, (0.9, 0.99), "cpu")
    return model, optimizer


def _crops(shards: Shards, rows: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and labels [B, T] at random positions of all documents joined end to end."""
    stream = np.concatenate([shards.tokens(document) for document in range(shards.n_documents)])
    ids = torch.from_numpy(stream.astype(np.int64))
    offsets_T = torch.arange(ROW_TOKENS)
    while True:
        places_BT = torch.randint(len(ids) - ROW_TOKENS, (rows, 1), generator=generator) + offsets_T
        yield ids[places_BT], ids[places_BT + 1]


def _n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class _Watch:
    """Seconds since its creation: wall-clock time, and CPU time of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu
