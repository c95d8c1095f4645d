"""Measurements of held-back rows, and results that are kept beside a run for its later processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from modelstack.files import replacing
from modelstack.posttrain.stages.record import Measurement
from modelstack.tokenizer.measures import ratio_interval

BEFORE_FILE = "before.json"


class _Before(BaseModel, frozen=True, extra="forbid"):
    asked: str
    """Fingerprint of the questions."""
    measured: Measurement


def ratio(name: str, above: NDArray[Any], below: NDArray[Any], note: str = "") -> Measurement:
    """Return sum over sum with its 95 % interval, a bootstrap over the rows.

    Args:
        name: Name of the figure.
        above: Numerator of each row, [N].
        below: Denominator of each row, [N]; their sum is not 0.
        note: Unit of the figure.
    """
    interval = ratio_interval(above, below)
    assert interval is not None  # callers have rows to measure on
    low, high = interval.low, interval.high
    return Measurement(name=name, value=interval.value, low=low, high=high, n=len(above), note=note)


def measured_once(folder: Path, asked: str, measure: Callable[[], Measurement]) -> Measurement:
    """Return the figure of the model that training begins with, measured by the first process of the run.

    Args:
        folder: Folder of the run.
        asked: Fingerprint of the questions; other questions are measured again.
        measure: Measures.
    """
    file = folder / BEFORE_FILE
    if file.exists():
        try:
            known = _Before.model_validate_json(file.read_bytes())
        except ValidationError:
            known = None  # cut off by a full disk
        if known is not None and known.asked == asked:
            return known.measured
    found = _Before(asked=asked, measured=measure())
    with replacing(file) as temporary:
        temporary.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return found.measured


def kept_tensors(file: Path, fingerprint: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors from a file with the same fingerprint; else make them and write the file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if file.exists():
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("fingerprint") == fingerprint:
                    return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError:
            pass  # cut off by a full disk: it is made again
    made = dict(make())
    with replacing(file) as temporary:
        save_file(made, temporary, metadata={"fingerprint": fingerprint})
    return made
