"""Files of examples into what a run reads: validation kept apart, and all of it written down.

An example that is trained on and validated on would make the figure a lie, so ids that are in both are an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelstack.data.examples import Example, read_examples
from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.sft.recipe import SftData

MANIFEST_FILE = "manifest.json"
"""What `modelstack data tools` writes beside its files."""
REPORTED = "decontamination"
"""The part of it that a stage's record keeps."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run reads."""

    training: dict[str, list[Example]]
    """By path."""
    validation: tuple[Example, ...]
    manifest: DataManifest


def read_training_data(data: SftData) -> TrainingData:
    """Read all files of a recipe.

    Raises:
        UserError: A file is broken, or an example is on both sides.
    """
    training = {file.path: list(read_examples(file.path)) for file in data.training}
    validation = {path: list(read_examples(path)) for path in data.validation}
    held_back = tuple(example for examples in validation.values() for example in examples)
    _refuse_both(training.values(), held_back)
    files = [
        *(_described(file.path, "training", training[file.path], file.share) for file in data.training),
        *(_described(path, "validation", examples) for path, examples in validation.items()),
    ]
    manifest = DataManifest(files=tuple(files), reports=_reports([*training, *validation]))
    return TrainingData(training, held_back, manifest)


def _refuse_both(training: Iterable[Sequence[Example]], held_back: Sequence[Example]) -> None:
    trained = {example.id for examples in training for example in examples}
    both = [example.id for example in held_back if example.id in trained]
    if both:
        raise UserError(
            f"{len(both)} examples are in training and in validation files, the first is {both[0]!r}: what is "
            f"trained on cannot be measured on; take them out of one of them"
        )


def _described(
    path: str, role: Literal["training", "validation"], examples: Sequence[Example], share: float | None = None
) -> DataFile:
    def counted(values: Sequence[str]) -> dict[str, int]:
        return dict(Counter(values).most_common())

    return DataFile(
        name=Path(path).name,
        role=role,
        sha256=sha256_of(path),
        n_examples=len(examples),
        share=share,
        kinds=counted([example.kind for example in examples]),
        sources=counted([example.source for example in examples]),
        licences=counted([example.license for example in examples]),
    )


def _reports(paths: Sequence[str]) -> dict[str, Any]:
    """Return what lies beside the files of how they were decontaminated."""
    reports: dict[str, Any] = {}
    for folder in dict.fromkeys(Path(path).parent for path in paths):
        file = folder / MANIFEST_FILE
        if file.is_file():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{file} is no JSON: {error}") from error
            if isinstance(content, dict) and REPORTED in content:
                reports[f"{REPORTED}, {folder.resolve().name}"] = content[REPORTED]
    return reports
