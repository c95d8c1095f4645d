"""What PPO learns by imitation beside its rewards, so that it is not forgotten: InstructGPT's PPO-ptx.

Rewards are silent on most of what a model can do, and a policy that moves for them loses some of it. Ouyang et al.
(2203.02155, section 3.5) add gamma E[log p] over texts of pre-training; here these are examples of fine-tuning, in
the same form, of which each pass has some rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import DataFile
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.sft.loader import SftLoader, row_order
from modelstack.sft.tokenised import tokenise
from modelstack.sft.training_data import read_training_data


@dataclass(frozen=True, slots=True)
class Mix:
    """Examples in an endless order."""

    loader: SftLoader
    files: tuple[DataFile, ...]
    """What they are from, for the record."""


def mix_of(recipe: PpoRecipe, base: Base) -> Mix | None:
    """Return the examples that a recipe mixes in; None: it has none.

    Raises:
        UserError: A file is broken, or an example cannot be rendered.
    """
    if recipe.mix is None:
        return None
    data, rows = recipe.mix.data, recipe.mix.rows
    read = read_training_data(data)
    row_tokens = min(data.row_tokens, base.config.max_position_embeddings)
    examples = tokenise(
        read.training,
        base.encoder,
        row_tokens=row_tokens,
        options=data.render,
        augmentation=data.augment,
        seed=recipe.seed,
    )
    order = row_order(data, rows=rows, seed=recipe.seed, row_tokens=row_tokens, layout=data.layout)
    return Mix(SftLoader(examples, order, rows_per_batch=rows // recipe.micro_batches), read.manifest.files)
