"""Measurements on held-back rows, and results that a run stores for a later resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from modelstack.files import replacing
from modelstack.posttrain.processes import ALONE, Processes
from modelstack.posttrain.stages.record import Measurement
from modelstack.tokenizer.measures import ratio_interval

BEFORE_FILE = "before.json"


class _Before(BaseModel, frozen=True, extra="forbid"):
    asked: str
    """Fingerprint of the questions that were measured."""
    measured: Measurement


def ratio(name: str, above: NDArray[Any], below: NDArray[Any], note: str = "") -> Measurement:
    """Return the ratio of two sums with its 95 % interval, by bootstrap over the rows.

    Args:
        name: Name of the figure.
        above: Numerator of each row, [N].
        below: Denominator of each row, [N]; their sum is not 0.
        note: Unit of the figure.
    """
    interval = ratio_interval(above, below)
    assert interval is not None  # callers have at least one row
    low, high = interval.low, interval.high
    return Measurement(name=name, value=interval.value, low=low, high=high, n=len(above), note=note)


def measured_once(
    folder: Path, asked: str, measure: Callable[[], Measurement], processes: Processes = ALONE
) -> Measurement:
    """Return the measurement of the model before training; measured once per run and stored.

    Args:
        folder: Folder of the run.
        asked: Fingerprint of the questions; the stored result is used for the same fingerprint only.
        measure: Performs the measurement.
        processes: Processes that measure together, with the same result; the first one stores it.
    """
    file = folder / BEFORE_FILE
    known = _known(file, asked)
    if processes.all_have(known):
        return known.measured
    found = _Before(asked=asked, measured=measure())
    if processes.is_first:
        with replacing(file) as temporary:
            temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return found.measured


def _known(file: Path, asked: str) -> _Before | None:
    if not file.exists():
        return None
    try:
        known = _Before.model_validate_json(file.read_bytes())
    except ValidationError:
        return None  # truncated, for example by a full disk
    return known if known.asked == asked else None


def kept_tensors(
    file: Path, fingerprint: str, make: Callable[[], Mapping[str, Tensor]], processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Return the tensors of a file if its fingerprint matches; otherwise compute them and write the file.

    Args:
        file: The file.
        fingerprint: Fingerprint of what the tensors depend on.
        make: Computes the tensors.
        processes: Processes that compute together, with the same result; the first one writes the file.
    """
    from safetensors.torch import save_file

    kept = _kept(file, fingerprint)
    if processes.all_have(kept):
        return kept
    made = dict(make())
    if processes.is_first:
        with replacing(file) as temporary:
            save_file(made, temporary, metadata={"fingerprint": fingerprint})
    return made


def _kept(file: Path, fingerprint: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as stored:
            is_known = (stored.metadata() or {}).get("fingerprint") == fingerprint
        return load_file(file) if is_known else None
    except SafetensorError:
        return None  # truncated, for example by a full disk
