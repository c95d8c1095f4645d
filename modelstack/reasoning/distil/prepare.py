"""From a resolved recipe to what a distillation reads and starts from: examples as tokens, student, teacher.

All of it is made anew by each process of a run, the same each time; only what a teacher that is let go said is
kept, with a fingerprint of what it was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.architecture.decoder import CausalLM
from modelstack.data.examples import Example
from modelstack.errors import UserError
from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import DataManifest, Measurement
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.reasoning.distil.measure import measured
from modelstack.reasoning.distil.recipe import DistilRecipe, DistilResolved
from modelstack.reasoning.distil.stored_teacher import StoredTeacher, kept_teacher
from modelstack.reasoning.losses.distillation import DistillationConfig
from modelstack.reasoning.sampling.frozen_model import load_frozen
from modelstack.sft.prepare import load_start
from modelstack.sft.prior.exact_calls import chosen
from modelstack.sft.recipe import SftData
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.sft.training_data import read_training_data
from modelstack.train.run.prepare import OnActivity

TEACHER_FILE = "teacher.safetensors"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads and starts from."""

    base: Base
    """The student, on its device, with the adapter that is to be trained."""
    teacher: CausalLM | StoredTeacher
    training: Tokenised
    held_back: Tokenised | None
    before: tuple[Measurement, ...]
    manifest: DataManifest


def prepare(resolved: DistilResolved, start: StartingPoint, folder: Path, told: OnActivity) -> Prepared:
    """Read examples, student and teacher; ask a teacher that is to be let go.

    Raises:
        UserError: A file is broken, an example cannot be rendered, or the teacher has another tokenizer.
    """
    recipe = resolved.recipe
    told("reading examples")
    data = read_training_data(SftData(training=recipe.data.training, validation=recipe.data.validation))
    told("loading student and teacher")
    base = load_start(recipe, resolved.lora, start)
    teacher = load_teacher(resolved, base)
    told("rendering examples")
    longest = min(base.config.max_position_embeddings, teacher.config.max_position_embeddings)
    training = _tokenised(recipe, base, data.training, longest)
    held_back, before = None, ()
    if data.validation:
        held_back = _tokenised(
            recipe, base, {"validation": chosen(data.validation, recipe.max_validation, recipe.seed)}, longest
        )
        told("measuring the student on held-back examples")
        before = measured(base.model, teacher, held_back)
    kept: CausalLM | StoredTeacher = teacher
    if recipe.top_k is not None:
        assert isinstance(recipe.loss, DistillationConfig)
        kept = kept_teacher(
            folder / TEACHER_FILE,
            _fingerprint(resolved, training),
            lambda: teacher,
            training,
            k=recipe.top_k,
            temperature=recipe.loss.temperature,
            told=lambda n: told(f"asking the teacher: {n:,} of {training.n_examples:,}"),
        )
    manifest = data.manifest.model_copy(update={"n_too_long": sum(training.n_dropped.values())})
    return Prepared(base, kept, training, held_back, before, manifest)


def load_teacher(resolved: DistilResolved, student: Base) -> CausalLM:
    """Return the teacher, on the student's device.

    Raises:
        UserError: It is not the one that the run began with, or has another tokenizer than the student.
    """
    recipe = resolved.recipe
    start = starting_point(recipe.teacher, recipe.teacher_weights)
    device = "cuda" if next(student.model.parameters()).is_cuda else "cpu"
    teacher = load_frozen(start, precision=recipe.teacher_precision, device=device)
    require_same_tokenizer(student, teacher)
    return teacher.model


def require_same_tokenizer(student: Base, teacher: Base) -> None:
    """Refuse a pair whose distributions are over different tokens.

    Raises:
        UserError: The hashes of the vocabularies, or the widths of the logits, differ.
    """
    ours, theirs = student.tokenizer.vocabulary.fingerprint, teacher.tokenizer.vocabulary.fingerprint
    if ours != theirs:
        raise UserError(
            f"teacher {teacher.path.name} has another tokenizer than the student (SHA-256 {theirs[:12]}... and "
            f"{ours[:12]}...): distributions over different tokens cannot be compared. Take a teacher of the "
            f"student's family, or train on the teacher's texts with `modelstack sample` and `modelstack sft`"
        )
    widths = student.config.vocab_size, teacher.config.vocab_size
    if widths[0] != widths[1]:
        raise UserError(
            f"the student's logits have {widths[0]} entries and the teacher's {widths[1]}: pad or cut one of the "
            f"embeddings, so that both have one width"
        )


def _tokenised(
    recipe: DistilRecipe, base: Base, examples: Mapping[str, Sequence[Example]], longest: int
) -> Tokenised:
    return tokenise(
        examples,
        base.encoder,
        row_tokens=min(recipe.data.row_tokens, longest),
        options=recipe.data.render,
        seed=recipe.seed,
    )


def _fingerprint(resolved: DistilResolved, training: Tokenised) -> str:
    recipe = resolved.recipe
    content = [
        resolved.teacher.sha256,
        resolved.teacher_sha256,
        recipe.teacher_precision,
        recipe.top_k,
        recipe.loss.temperature,
        training.fingerprint(),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
