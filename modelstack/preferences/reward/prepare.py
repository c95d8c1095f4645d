"""From a resolved recipe to what a reward model reads and starts from: pairs as tokens, a decoder with a head.

All of it is made anew by each process of a run, the same each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import DataManifest
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.preferences.examples import Preference
from modelstack.preferences.prepare import drawn_pairs, manifest_of, read_sides
from modelstack.preferences.reward.recipe import RewardResolved
from modelstack.preferences.reward.scores import score_pairs
from modelstack.preferences.reward.value_model import HEAD_FILE, ValueModel, draw_head, load_head
from modelstack.preferences.units import Units, units_of
from modelstack.sft.prepare import load_start
from modelstack.train.run.prepare import OnActivity


@dataclass(frozen=True, slots=True)
class PreparedReward:
    """What a run reads and starts from."""

    base: Base
    """On its device, with the adapter that is to be trained."""
    model: ValueModel
    """The base's, with a head."""
    units: Units
    held_back: Units | None
    """Pairs that are measured on."""
    before: NDArray[np.float64] | None
    """Rewards of those by the model that training begins with, [U, 2]."""
    manifest: DataManifest


def prepare_reward(resolved: RewardResolved, start: StartingPoint, told: OnActivity) -> PreparedReward:
    """Read pairs and base; a base that is a reward model keeps its head.

    Raises:
        UserError: A file is broken, a conversation is on both sides, or the adapter does not fit the base.
    """
    recipe = resolved.recipe
    told("reading preferences")
    training, validation, n_empty = read_sides(recipe.data)
    told("loading the base")
    base = load_start(recipe, resolved.lora, start)
    model = ValueModel(base.model)
    if start.weights.is_dir() and (start.weights / HEAD_FILE).is_file():
        load_head(model, start.weights)
    else:
        draw_head(model, recipe.seed)
    told("rendering preferences")

    def rendered(preferences: Mapping[str, list[Preference]]) -> Units:
        row_tokens = min(recipe.data.row_tokens, base.config.max_position_embeddings)
        return units_of(preferences, "pairs", base.encoder, row_tokens=row_tokens, options=recipe.data.render)

    units = rendered(training)
    held_back = before = None
    if validation:
        held_back = rendered(
            {path: drawn_pairs(pairs, recipe.max_validation, recipe.seed) for path, pairs in validation.items()}
        )
        told("scoring held-back pairs")
        before = score_pairs(model, held_back)
    n_left_out = sum(units.n_dropped.values()) + n_empty
    manifest = manifest_of(recipe.data, training, validation, n_left_out)
    return PreparedReward(base, model, units, held_back, before, manifest)
