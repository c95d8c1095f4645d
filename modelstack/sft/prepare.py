"""From a resolved recipe to what a fine-tuning reads and starts from: examples as tokens, base and adapter.

All of it is made anew by each process of a run, the same each time; only the loss of the base is kept, because it
takes a while, with a fingerprint of what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from modelstack.architecture.decoder import CausalLM
from modelstack.data.examples import Example
from modelstack.files import replacing
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, load_lora_state
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import read_adapter
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.posttrain.stages.record import DataManifest, Measurement
from modelstack.posttrain.stages.stage import ADAPTER
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.sft.prior.exact_calls import chosen
from modelstack.sft.recipe import SftRecipe, SftResolved
from modelstack.sft.rendering import render
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.sft.training_data import TrainingData, read_training_data
from modelstack.sft.validation_loss import Targets, measurement, targets_of, validation_score
from modelstack.train.run.prepare import OnActivity

BEFORE_FILE = "before.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads and starts from."""

    start: StartingPoint
    base: Base
    """On its device, with the adapter that is to be trained."""
    training: Tokenised
    validation: tuple[Example, ...]
    manifest: DataManifest
    targets: Targets | None
    """Held-back examples whose loss is measured; None: there are none."""
    before: tuple[Measurement, ...]
    """That loss, of the base."""


class _Before(BaseModel, frozen=True, extra="forbid"):
    targets: str
    """Fingerprint of what was asked."""
    measured: Measurement


def prepare(resolved: SftResolved, start: StartingPoint, folder: Path, told: OnActivity) -> Prepared:
    """Read examples and base.

    Args:
        resolved: The recipe.
        start: What it trains.
        folder: Of the run.
        told: Is told what is being done.

    Raises:
        UserError: A file is broken, an example cannot be rendered, or the adapter does not fit the base.
    """
    recipe = resolved.recipe
    told("reading examples")
    data = read_training_data(recipe.data)
    told("loading the base")
    base = load_start(recipe, resolved.lora, start)
    told("rendering examples")
    training = _tokenised(recipe, base, data)
    targets, before = _targets(recipe, base, data), ()
    if targets is not None:
        told("measuring the base on held-back examples")
        before = (_before(folder / BEFORE_FILE, base.model, targets, recipe.data.row_tokens),)
    manifest = data.manifest.model_copy(update={"n_too_long": sum(training.n_dropped.values())})
    return Prepared(start, base, training, data.validation, manifest, targets, before)


def load_start(recipe: TuningRecipe, lora: LoraConfig | None, start: StartingPoint) -> Base:
    """Return the base with what is to be trained on it: an adapter, new or the stage's, or all weights.

    Raises:
        UserError: The base cannot be read, or the adapter does not fit it.
    """
    torch.manual_seed(recipe.seed)  # of dropout; everything else has generators of its own
    # All weights that are trained stay fp32 until the optimizer has its masters of them.
    dtype = torch.bfloat16 if lora is not None and recipe.precision == "bf16" else torch.float32
    base = load_base(start.weights, dtype=dtype)
    if lora is not None:
        add_lora(base.model, lora)
        if start.stage is not None:
            load_lora_state(base.model, read_adapter(start.stage.path / ADAPTER).state)
    kind = recipe.device if recipe.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    base.model.to(kind)
    return base


def _tokenised(recipe: SftRecipe, base: Base, data: TrainingData) -> Tokenised:
    return tokenise(
        data.training,
        base.encoder,
        row_tokens=min(recipe.data.row_tokens, base.config.max_position_embeddings),
        options=recipe.data.render,
        augmentation=recipe.data.augment,
        seed=recipe.seed,
        n_variants=recipe.n_variants,
    )


def _targets(recipe: SftRecipe, base: Base, data: TrainingData) -> Targets | None:
    if not data.validation:
        return None
    held_back = chosen(data.validation, recipe.evaluation.max_examples, recipe.seed)
    encoder = base.encoder
    return targets_of([render(one, encoder, recipe.data.render) for one in held_back], base.tokenizer)


def _before(file: Path, model: CausalLM, targets: Targets, row_tokens: int) -> Measurement:
    """Return the loss of a model that has not learnt anything yet, measured by one of the run's processes."""
    if file.exists():
        known = _Before.model_validate_json(file.read_bytes())
        if known.targets == targets.fingerprint:
            return known.measured
    found = _Before(
        targets=targets.fingerprint, measured=measurement(validation_score(model, targets, row_tokens))
    )
    with replacing(file) as temporary:
        temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return found.measured
