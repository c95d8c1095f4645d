"""Supervised fine-tuning: token loss on labelled examples, measured by held-back loss and by decoded replies."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.moe.balancing import balancer_of
from modelstack.files import replacing
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.measuring import measured_once
from modelstack.posttrain.recipe import TuningResolved
from modelstack.posttrain.stages.record import Kind, Measurement
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.sft.loader import SftLoader
from modelstack.sft.prior.exact_calls import Question, ask, chosen, lines, measured
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.rendering import render
from modelstack.sft.served import served_after, served_before
from modelstack.sft.tokenised import tokenise
from modelstack.sft.training_data import read_training_data
from modelstack.sft.validation_loss import Targets, measurement, targets_of, validation_score
from modelstack.train.evaluation import Evaluation
from modelstack.train.loop import Hook
from modelstack.train.metrics import Metrics
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.passes import LocalPasses, Passes

REPLIES_BEFORE, REPLIES_AFTER = "replies-before.jsonl", "replies-after.jsonl"
_WORK = ".served."
"""Prefix of folders with temporary files of a measurement; folders left by killed processes are removed."""
SftResolved = TuningResolved[SftRecipe]


def fine_tune(recipe: SftRecipe, path: Path, console: Console) -> Stage | None:
    """Fine-tune on examples; see `run_training`."""
    return run_training(FineTuning, recipe, path, console)


class FineTuning(Training[SftResolved]):
    """Fine-tuning on examples."""

    kind: ClassVar[Kind] = "sft"
    is_spread: ClassVar[bool] = True

    def __init__(self, job: Job[SftResolved], told: Told) -> None:
        """Read and render the examples, and load the base."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        data = recipe.data
        told("reading examples")
        read = read_training_data(data)
        told("loading the base")
        self.base = load_start(recipe, self.resolved.lora, job.start, job.processes.mesh)
        self.model = self.base.model
        told("rendering examples")
        examples = tokenise(
            read.training,
            self.base.encoder,
            row_tokens=min(data.row_tokens, self.base.config.max_position_embeddings),
            options=data.render,
            augmentation=data.augment,
            seed=recipe.seed,
            n_variants=recipe.n_variants,
        )
        self._held_back = read.validation
        self._targets = self._chosen_targets()
        rank, world = job.processes.rank, job.processes.world
        self._loader = SftLoader(
            examples, self.row_order(data.layout), rows_per_batch=self.rows_per_batch, rank=rank, world=world
        )
        self.n_rows = self._loader.rows_per_epoch
        self.data = read.manifest.model_copy(update={"n_too_long": sum(examples.n_dropped.values())})

    def measure(self, told: Told) -> None:
        """Measure the loss of held-back examples."""
        if (targets := self._targets) is not None:
            told("measuring the base on held-back examples")
            folder, processes = self.job.folder, self.job.processes
            self.before = (measured_once(folder, targets.fingerprint, lambda: self._loss(targets), processes),)

    def parts(self) -> tuple[SftLoader, Passes]:
        """Return the loader of rows, and the passes of the token loss."""
        model, loss = cast(CausalLM, self.model), self.resolved.recipe.loss
        balancer = balancer_of(model) if self.resolved.lora is None else None
        if (mesh := self.job.processes.mesh) is not None:
            return self._loader, ShardedPasses(model, mesh, balancer, token_loss=loss)
        return self._loader, LocalPasses(model, balancer, loss)

    def hooks(self, metrics: Metrics) -> dict[str, Hook]:
        """Return the hook that measures the held-back loss every few steps."""
        if self._targets is None:
            return {}
        recipe = self.resolved.recipe
        score = partial(validation_score, targets=self._targets, row_tokens=recipe.data.row_tokens)
        return {"evaluation": Evaluation(score, every=recipe.evaluation.every, metrics=metrics)}

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure the loss of held-back examples and, if configured, their replies."""
        recipe = self.resolved.recipe
        after: list[Measurement] = []
        parts: tuple[str, ...] = ()
        if self._targets is not None:
            told("measuring on held-back examples")
            after.append(self._loss(self._targets))
        if recipe.evaluation.exact_replies:
            replied_before, replied_after = self._exact_replies(told)
            self.before += replied_before
            after += replied_after
            parts = (REPLIES_BEFORE, REPLIES_AFTER)
        n_examples = sum(file.n_examples for file in self.data.files if file.role == "training")
        what = (
            f"Supervised fine-tuning of {self.trained}: {n_steps:,} steps of {recipe.rows} rows of "
            f"{recipe.data.row_tokens:,} tokens, from {n_examples:,} examples."
        )
        return Report(what, tuple(after), parts)

    def _chosen_targets(self) -> Targets | None:
        if not self._held_back:
            return None
        recipe = self.resolved.recipe
        held_back = chosen(self._held_back, recipe.evaluation.max_examples, recipe.seed)
        rendered = [render(one, self.base.encoder, recipe.data.render) for one in held_back]
        return targets_of(rendered, self.base.tokenizer)

    def _loss(self, targets: Targets) -> Measurement:
        return measurement(validation_score(self.base.model, targets, self.resolved.recipe.data.row_tokens))

    def _exact_replies(self, told: Told) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
        """Decode the same held-back examples before and after training, with llama.cpp as in serving."""
        recipe, job = self.resolved.recipe, self.job
        settings, options = recipe.evaluation, recipe.data.render
        examples = chosen(self._held_back, settings.exact_replies, recipe.seed)
        questions = [Question.of(one, render(one, self.base.encoder, options)) for one in examples]
        for left in job.folder.glob(f"{_WORK}*"):
            shutil.rmtree(left)
        found: list[tuple[Measurement, ...]] = []
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=job.folder) as work:
            before = served_before(job.start, Path(work))
            after = served_after(job.start, self.base, self.resolved.lora, job.folder, Path(work))
            for served, name in ((before, REPLIES_BEFORE), (after, REPLIES_AFTER)):
                threads = settings.threads
                with LlamaCppEngine(
                    served.model, lora_path=served.adapter, n_threads=threads, n_threads_prefill=threads
                ) as engine:
                    answered = ask(engine, questions, abstain=options.abstain, told=told)
                with replacing(job.folder / name) as temporary:
                    temporary.write_text("".join(lines(answered)), encoding="utf-8")
                found.append(measured(answered))
        return found[0], found[1]
