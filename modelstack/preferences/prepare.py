"""From a resolved recipe to what a preference training reads and starts from: units, reference, base with adapter.

All of it is made anew by each process of a run, the same each time; only the reference's log-probabilities are
kept, with a fingerprint of what they are of.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.base import Base
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.posttrain.starting_point import StartingPoint
from modelstack.preferences.examples import Preference, read_preferences
from modelstack.preferences.methods import form_of, has_reference
from modelstack.preferences.recipe import PreferenceData, PreferenceResolved
from modelstack.preferences.scores import Sums, kept_reference, score
from modelstack.preferences.units import Units, units_of
from modelstack.sft.prepare import load_start
from modelstack.train.run.prepare import OnActivity

REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads and starts from."""

    base: Base
    """On its device, with the adapter that is to be trained."""
    units: Units
    reference: Tensor | None
    """Of the units, [U, 2]; None: the method has none."""
    held_back: Units | None
    """Pairs that are measured on."""
    before: Sums | None
    """Of those, by the model that training begins with."""
    manifest: DataManifest


def prepare(resolved: PreferenceResolved, start: StartingPoint, folder: Path, told: OnActivity) -> Prepared:
    """Read preferences and base, ask the reference.

    Raises:
        UserError: A file is broken, a conversation is on both sides, or the adapter does not fit the base.
    """
    recipe = resolved.recipe
    told("reading preferences")
    training, validation, n_empty = read_sides(recipe.data)
    told("loading the base")
    base = load_start(recipe, resolved.lora, start)
    told("rendering preferences")
    row_tokens = min(recipe.data.row_tokens, base.config.max_position_embeddings)
    units = units_of(
        training, form_of(recipe.method), base.encoder, row_tokens=row_tokens, options=recipe.data.render
    )
    held_back = before = None
    if validation:
        drawn = {
            path: drawn_pairs(pairs, recipe.max_validation, recipe.seed) for path, pairs in validation.items()
        }
        held_back = units_of(drawn, "pairs", base.encoder, row_tokens=row_tokens, options=recipe.data.render)
        told("measuring the base on held-back pairs")
        before = score(base.model, held_back)
    reference = None
    if has_reference(recipe.method):
        fingerprint = _reference_fingerprint(resolved, units)
        reference = kept_reference(
            folder / REFERENCE_FILE,
            fingerprint,
            base.model,
            units,
            lambda n: told(f"asking the reference: {n:,} of {len(units):,}"),
        )
    manifest = manifest_of(recipe.data, training, validation, sum(units.n_dropped.values()) + n_empty)
    return Prepared(base, units, reference, held_back, before, manifest)


def drawn_pairs(preferences: list[Preference], n_most: int, seed: int) -> list[Preference]:
    """Return so many pairs, those with the smallest hash of their id: the same whatever stands around them."""
    pairs = [each for each in preferences if each.is_pair]
    return sorted(pairs, key=lambda each: hashlib.sha256(f"{seed} {each.id}".encode()).digest())[:n_most]


def read_sides(data: PreferenceData) -> tuple[dict[str, list[Preference]], dict[str, list[Preference]], int]:
    """Return what is trained on and what is measured on, by file, and how many to train on were empty.

    Raises:
        UserError: A file is broken, or a conversation is on both sides.
    """
    empty: list[int] = []
    on_empty = empty.append if data.skip_empty else None
    training = {file.path: list(read_preferences(file.path, on_empty)) for file in data.training}
    n_empty = len(empty)
    validation = {path: list(read_preferences(path, on_empty)) for path in data.validation}
    _refuse_both_sides(training, validation)
    return training, validation, n_empty


def _refuse_both_sides(training: dict[str, list[Preference]], validation: dict[str, list[Preference]]) -> None:
    def asked(preference: Preference) -> str:
        return json.dumps([message.model_dump(mode="json") for message in preference.messages])

    trained = {asked(each) for several in training.values() for each in several}
    both = [each.id for several in validation.values() for each in several if asked(each) in trained]
    if both:
        raise UserError(
            f"{len(both)} conversations are in training and in validation files, the first is {both[0]!r}: what "
            f"is trained on cannot be measured on; take them out of one of them"
        )


def _reference_fingerprint(resolved: PreferenceResolved, units: Units) -> str:
    content = [resolved.base_sha256, resolved.parent.sha256, resolved.recipe.precision, units.fingerprint()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def manifest_of(
    data: PreferenceData,
    training: dict[str, list[Preference]],
    validation: dict[str, list[Preference]],
    n_left_out: int,
) -> DataManifest:
    """Return what a stage says of its files, and how many examples were left out."""
    shares = {file.path: file.share for file in data.training}
    roles: tuple[tuple[Literal["training", "validation"], dict[str, list[Preference]]], ...] = (
        ("training", training),
        ("validation", validation),
    )
    files = [
        DataFile(
            name=Path(path).name,
            role=role,
            sha256=sha256_of(path),
            n_examples=len(several),
            share=shares.get(path),
            kinds=dict(Counter("pair" if each.is_pair else "single" for each in several).most_common()),
            sources=dict(Counter(each.source for each in several).most_common()),
            licences=dict(Counter(each.license for each in several).most_common()),
        )
        for role, group in roles
        for path, several in group.items()
    ]
    return DataManifest(files=tuple(files), n_too_long=n_left_out)
