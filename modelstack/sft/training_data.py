"""Training and held-back examples of a recipe, with the record of their files.

An id on both sides is an error, because a figure measured on a training example would be invalid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelstack.data.examples import Example, read_examples
from modelstack.errors import UserError
from modelstack.posttrain.data_files import data_file, refuse_both_sides
from modelstack.posttrain.recipe import TuningFiles
from modelstack.posttrain.stages.record import DataFile, DataManifest

MANIFEST_FILE = "manifest.json"
"""File that `modelstack data tools` writes in the folder of its examples."""
REPORTED = "decontamination"
"""Key of the manifest that a stage's record keeps."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Examples of a run."""

    training: dict[str, list[Example]]
    """Training examples by path."""
    validation: tuple[Example, ...]
    manifest: DataManifest


def read_training_data(data: TuningFiles) -> TrainingData:
    """Read all files of a recipe.

    Raises:
        UserError: A file is broken, or an example is both trained on and measured on.
    """
    training = {file.path: list(read_examples(file.path)) for file in data.training}
    validation = {path: list(read_examples(path)) for path in data.validation}
    held_back = tuple(example for examples in validation.values() for example in examples)
    trained = {example.id for examples in training.values() for example in examples}
    refuse_both_sides("examples", trained, ((example.id, example.id) for example in held_back))
    files = [
        *(_described(file.path, "training", training[file.path], file.share) for file in data.training),
        *(_described(path, "validation", examples) for path, examples in validation.items()),
    ]
    manifest = DataManifest(files=tuple(files), reports=_reports([*training, *validation]))
    return TrainingData(training, held_back, manifest)


def _described(
    path: str, role: Literal["training", "validation"], examples: Sequence[Example], share: float | None = None
) -> DataFile:
    return data_file(
        path,
        role,
        kinds=[example.kind for example in examples],
        sources=[example.source for example in examples],
        licences=[example.license for example in examples],
        share=share,
    )


def _reports(paths: Sequence[str]) -> dict[str, Any]:
    """Return the decontamination reports in the folders of the files."""
    reports: dict[str, Any] = {}
    for folder in dict.fromkeys(Path(path).parent for path in paths):
        file = folder / MANIFEST_FILE
        if file.is_file():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{file} is not valid JSON: {error}") from error
            if isinstance(content, dict) and REPORTED in content:
                reports[f"{REPORTED}, {folder.resolve().name}"] = content[REPORTED]
    return reports
