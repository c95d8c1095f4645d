"""Distillation of a teacher into a student; the stage's parents are the initial student and the teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.data.examples import Example
from modelstack.errors import UserError
from modelstack.posttrain.base import Base
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import StartingPoint, load_start, starting_point
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.reasoning.distil.loader import DistilLoader, loader_for
from modelstack.reasoning.distil.measure import measured
from modelstack.reasoning.distil.passes import DistilPasses
from modelstack.reasoning.distil.recipe import DistilRecipe, DistilResolved
from modelstack.reasoning.distil.stored_teacher import StoredTeacher, kept_teacher
from modelstack.reasoning.losses.distillation import DistillationConfig
from modelstack.reasoning.sampling.frozen_model import load_frozen
from modelstack.sft.prior.exact_calls import chosen
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.sft.training_data import read_training_data

DIVERGENCES_FILE = "divergences.jsonl"
"""File of the metrics of each step: agreement, entropy, mass of the tail, on-policy share."""
TEACHER_FILE = "teacher.safetensors"


def distil(recipe: DistilRecipe, path: Path, console: Console) -> Stage | None:
    """Distil a teacher into a student; see `run_training`."""
    return run_training(Distillation, recipe, path, console)


class Distillation(Training[DistilResolved]):
    """Training of a student by distillation."""

    kind: ClassVar[Kind] = "distilled"
    values_file: ClassVar[str] = DIVERGENCES_FILE

    @classmethod
    def resolve(cls, recipe: DistilRecipe, start: StartingPoint) -> DistilResolved:
        """Return the recipe with every default and hash filled in."""
        teacher = starting_point(recipe.teacher, recipe.teacher_weights)
        return DistilResolved(
            **resolved_parts(recipe, start),
            teacher=teacher.parent,
            teacher_sha256=teacher.sha256,
            teacher_weights=str(teacher.weights.resolve()),
        )

    def __init__(self, job: Job[DistilResolved], told: Told) -> None:
        """Read examples, student and teacher."""
        super().__init__(job, told)
        recipe = self.resolved.recipe
        told("reading examples")
        read = read_training_data(recipe.data)
        told("loading student and teacher")
        self.base = load_start(recipe, self.resolved.lora, job.start)
        self.model = self.base.model
        teacher = self._loaded_teacher()
        self._teacher: CausalLM | StoredTeacher = teacher
        told("rendering examples")
        longest = min(self.base.config.max_position_embeddings, teacher.config.max_position_embeddings)
        self._examples = self._tokenised(read.training, longest)
        self._held_back: Tokenised | None = None
        if read.validation:
            drawn = chosen(read.validation, recipe.max_validation, recipe.seed)
            self._held_back = self._tokenised({"validation": drawn}, longest)
        self.data = read.manifest.model_copy(update={"n_too_long": sum(self._examples.n_dropped.values())})
        self.n_rows = self._examples.n_examples

    def measure(self, told: Told) -> None:
        """Measure the divergences on held-back examples; with `top_k`, store the teacher's output."""
        teacher, top_k = self._teacher, self.resolved.recipe.top_k
        assert not isinstance(teacher, StoredTeacher)  # nothing was stored yet
        if self._held_back is not None:
            told("measuring the student on held-back examples")
            self.before = measured(self.base.model, teacher, self._held_back)
        if top_k is not None:
            self._teacher = self._stored(teacher, top_k, told)

    def parts(self) -> tuple[DistilLoader, DistilPasses]:
        """Return the loader of given or sampled replies, and the passes of the divergence."""
        recipe, base = self.resolved.recipe, self.base
        n_rows, plan = self.rows_per_batch, recipe.on_policy
        loader = loader_for(base, self._examples, self.row_order(), rows_per_batch=n_rows, on_policy=plan)
        return loader, DistilPasses(base.model, self._teacher, recipe.loss)

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure the divergences on held-back examples."""
        recipe, resolved = self.resolved.recipe, self.resolved
        whose = "off policy" if recipe.on_policy is None else f"{recipe.on_policy.share:.0%} on policy"
        kept = "" if recipe.top_k is None else f", {recipe.top_k} tokens of each place kept"
        parent, _, moved = self.trained.partition(", ")
        what = (
            f"Distillation of {resolved.teacher.name} into {parent} ({recipe.loss.name}, {whose}{kept}), {moved}: "
            f"{n_steps:,} steps of {recipe.rows} replies, from {self._examples.n_examples:,} examples."
        )
        if self._held_back is None:
            return Report(what)
        told("measuring on held-back examples")
        teacher = self._loaded_teacher() if isinstance(self._teacher, StoredTeacher) else self._teacher
        return Report(what, measured(self.base.model, teacher, self._held_back))

    def _loaded_teacher(self) -> CausalLM:
        """Return the teacher, on the student's device.

        Raises:
            UserError: The teacher has another tokenizer than the student.
        """
        recipe = self.resolved.recipe
        start = starting_point(recipe.teacher, recipe.teacher_weights)
        device = "cuda" if next(self.base.model.parameters()).is_cuda else "cpu"
        teacher = load_frozen(start, precision=recipe.teacher_precision, device=device)
        require_same_tokenizer(self.base, teacher)
        return teacher.model

    def _tokenised(self, examples: Mapping[str, Sequence[Example]], longest: int) -> Tokenised:
        recipe = self.resolved.recipe
        row_tokens = min(recipe.data.row_tokens, longest)
        options = recipe.data.render
        return tokenise(examples, self.base.encoder, row_tokens=row_tokens, options=options, seed=recipe.seed)

    def _stored(self, teacher: CausalLM, k: int, told: Told) -> StoredTeacher:
        """Return the teacher's k most likely tokens at every target."""
        resolved, recipe, examples = self.resolved, self.resolved.recipe, self._examples
        assert isinstance(recipe.loss, DistillationConfig)  # the recipe refuses others with top_k
        temperature = recipe.loss.temperature
        content = [
            resolved.teacher.sha256,
            resolved.teacher_sha256,
            recipe.teacher_precision,
            k,
            temperature,
            examples.fingerprint(),
        ]
        return kept_teacher(
            self.job.folder / TEACHER_FILE,
            hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            lambda: teacher,
            examples,
            k=k,
            temperature=temperature,
            told=lambda n: told(f"evaluating the teacher: {n:,} of {examples.n_examples:,}"),
        )


def require_same_tokenizer(student: Base, teacher: Base) -> None:
    """Refuse a teacher whose distributions are over other tokens than the student's.

    Raises:
        UserError: The hashes of the vocabularies, or the widths of the logits, differ.
    """
    ours, theirs = student.tokenizer.vocabulary.fingerprint, teacher.tokenizer.vocabulary.fingerprint
    if ours != theirs:
        raise UserError(
            f"teacher {teacher.path.name} has another tokenizer than the student (SHA-256 {theirs[:12]}... and "
            f"{ours[:12]}...): distributions over different tokens cannot be compared. Use a teacher of the "
            f"student's family, or train on the teacher's texts with `modelstack sample` and `modelstack sft`"
        )
    widths = student.config.vocab_size, teacher.config.vocab_size
    if widths[0] != widths[1]:
        raise UserError(
            f"the student's logits have {widths[0]} entries and the teacher's {widths[1]}: pad or cut one of the "
            f"embeddings, so that both have the same width"
        )
