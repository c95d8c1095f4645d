"""The stage that is released or measured: a folder, or the name of a model whose adapter the package ships."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from modelstack.align.release.parts import weights_sha256
from modelstack.errors import UserError
from modelstack.posttrain.lora.unpack import unpack
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, Stage, is_stage, open_stage
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.posttrain.weights_by_name import nearest_path_hint, shipped_adapter, weights_path


def open_subject(given: str) -> Stage:
    """Return the stage after checking every file against its record.

    Raises:
        UserError: It is neither a stage nor a model with a shipped adapter, or its files differ from its record.
    """
    path = Path(given)
    if is_stage(path):
        return open_stage(path)
    shipped = None if path.exists() else shipped_adapter(given)
    if shipped is None or not is_stage(shipped[0].parent):
        raise UserError(
            f"{given!r} is neither the folder of a stage nor a model with a shipped adapter"
            f"{nearest_path_hint(path)}; `modelstack stage lineage runs` lists stages"
        )
    return open_stage(shipped[0].parent)


def base_of(given: str, weights: str | Path | None) -> Path | None:
    """Return the path of the base weights of a stage that is packed as GGUF only; None: its run recorded them."""
    if weights is not None:
        return weights_path(weights)
    return None if Path(given).exists() else weights_path(given)


def loadable(given: str, weights: str | Path | None, held: ExitStack) -> tuple[StartingPoint, str]:
    """Return a starting point with a stage's adapter, and the identity of its weights.

    A shipped adapter is unpacked into a temporary folder, which `held` removes.

    Raises:
        UserError: The stage or its base is missing or damaged.
    """
    stage = open_subject(given)
    identity = weights_sha256(stage.record)
    if (stage.path / ADAPTER).is_dir() or not (stage.path / ADAPTER_GGUF).is_file():
        return starting_point(stage.path, None if weights is None else str(weights)), identity
    base = base_of(given, weights)
    if base is None:
        raise UserError(
            f"stage {stage.path} has {ADAPTER_GGUF} alone and does not record its base: name it with --weights"
        )
    out = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="modelstack."))) / "stage"
    unpack(stage.path, base, out)
    return starting_point(out, base), identity
