"""What a recipe's `base` names: weights to train, whose child the new stage is, and an adapter to go on with.

A base is a GGUF file, a checkpoint folder, or a stage. A stage with a model is trained on as any checkpoint is. A
stage with an adapter is gone on with: the adapter's own rank and targets, on the weights that it was trained on,
which are known by their hash wherever they lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modelstack.errors import UserError
from modelstack.posttrain.base import base_sha256, require_same_base
from modelstack.posttrain.stages.record import Origin
from modelstack.posttrain.stages.stage import ADAPTER, MODEL, Stage, is_stage, open_stage
from modelstack.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Where a training begins."""

    weights: Path
    """A GGUF file or a checkpoint folder."""
    sha256: str
    parent: Origin
    stage: Stage | None = None
    """With the adapter to go on with; None: there is none."""


def starting_point(base: str | Path, weights: str | Path | None = None) -> StartingPoint:
    """Find what a base names.

    Args:
        base: A GGUF file, a checkpoint folder or the folder of a stage.
        weights: Of a stage that is an adapter: what it goes on; None: where its own run had it from.

    Raises:
        UserError: The base is not there, a stage is damaged, or its base is not to be found or is another.
    """
    path = Path(base)
    stage = open_stage(path) if is_stage(path) else None
    if (stage is None or not (path / ADAPTER).is_dir()) and weights is not None:
        raise UserError(f"weights = {str(weights)!r} is for a base that is a stage with an adapter: leave it out")
    if stage is None:
        sha256 = base_sha256(path)
        return StartingPoint(path, sha256, Origin(kind="base", name=_name(path), sha256=sha256))
    if not (path / ADAPTER).is_dir():
        model = path / MODEL
        return StartingPoint(model, base_sha256(model), stage.origin)
    found = Path(weights) if weights is not None else _weights_of(path)
    require_same_base(stage.record.base_sha256, base_sha256(found))
    return StartingPoint(found, stage.record.base_sha256, stage.origin, stage)


def _weights_of(stage: Path) -> Path:
    """Return where the run that made a stage had its base from."""
    file = RunFolder(stage).recipe
    try:
        weights = Path(json.loads(file.read_text(encoding="utf-8"))["resolved"]["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"stage {stage} is an adapter and does not say where its base lies ({file.name}: {error!r}): name the "
            f"GGUF file or checkpoint folder with weights=PATH"
        ) from error
    if not weights.exists():
        raise UserError(f"stage {stage} was trained on {weights}, which is not there: name it with weights=PATH")
    return weights


def _name(path: Path) -> str:
    """Return what a base without a record is called; a run's folder rather than `model` in it."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == MODEL and path.is_dir() else resolved.name
