"""Preference files of a recipe: training and held-back side, read, rendered and recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from modelstack.posttrain.base import Base
from modelstack.posttrain.data_files import data_file, drawn, refuse_both_sides
from modelstack.posttrain.stages.record import DataManifest
from modelstack.preferences.examples import Preference, read_preferences
from modelstack.preferences.recipe import PreferenceData
from modelstack.preferences.units import Form, Units, units_of

Side = dict[str, list[Preference]]
"""Preferences by file."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Training and held-back preferences."""

    training: Side
    validation: Side
    n_empty: int
    """Training lines that were left out because a reply is empty or both replies are equal."""

    def units(self, data: PreferenceData, form: Form, base: Base) -> Units:
        """Render the training side.

        Raises:
            UserError: A conversation cannot be rendered, or a file has no usable preference.
        """
        return _rendered(self.training, data, form, base)

    def held_back(self, data: PreferenceData, base: Base, n_most: int, seed: int) -> Units | None:
        """Render at most `n_most` held-back pairs of each file; None if there is no file.

        Raises:
            UserError: A conversation cannot be rendered, or a file has no pair.
        """
        if not self.validation:
            return None
        pairs = {
            path: drawn((each for each in several if each.is_pair), n_most, seed, lambda each: each.id)
            for path, several in self.validation.items()
        }
        return _rendered(pairs, data, "pairs", base)

    def manifest(self, data: PreferenceData, units: Units) -> DataManifest:
        """Return the record of the files for the stage, with the number of examples left out."""
        shares = {file.path: file.share for file in data.training}
        roles: tuple[tuple[Literal["training", "validation"], Side], ...] = (
            ("training", self.training),
            ("validation", self.validation),
        )
        files = [
            data_file(
                path,
                role,
                kinds=["pair" if each.is_pair else "single" for each in several],
                sources=[each.source for each in several],
                licences=[each.license for each in several],
                share=shares.get(path),
            )
            for role, side in roles
            for path, several in side.items()
        ]
        return DataManifest(files=tuple(files), n_too_long=sum(units.n_dropped.values()) + self.n_empty)


def read_sides(data: PreferenceData) -> Sides:
    """Read all files of a recipe.

    Raises:
        UserError: A file is broken, or a conversation is both trained on and measured on.
    """
    empty: list[int] = []
    on_empty = empty.append if data.skip_empty else None
    training = {file.path: list(read_preferences(file.path, on_empty)) for file in data.training}
    n_empty = len(empty)
    validation = {path: list(read_preferences(path, on_empty)) for path in data.validation}
    trained = {_asked(each) for several in training.values() for each in several}
    held_back = ((each.id, _asked(each)) for several in validation.values() for each in several)
    refuse_both_sides("conversations", trained, held_back)
    return Sides(training, validation, n_empty)


def _asked(preference: Preference) -> str:
    return json.dumps([message.model_dump(mode="json") for message in preference.messages])


def _rendered(side: Side, data: PreferenceData, form: Form, base: Base) -> Units:
    row_tokens = min(data.row_tokens, base.config.max_position_embeddings)
    return units_of(side, form, base.encoder, row_tokens=row_tokens, options=data.render)
