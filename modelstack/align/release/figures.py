"""Figures of a release, and the results files that hold them.

A figure is printed in the card, the bill and the evaluation results from this one place, so they cannot contradict
each other. It carries the number of cases, the 95 % interval, the seed and the command that measured it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from modelstack.align.attack.report import Rate
from modelstack.errors import UserError, reason_of
from modelstack.files import read_json_object, read_toml, replacing
from modelstack.posttrain.stages.record import SHA256, Measurement

FORMAT = "modelstack.align.release.results/1"
MAX_RESULTS_BYTES = 16 << 20
Part = Literal["evaluation", "refusals", "red team", "tamper", "contamination", "memorisation", "bias"]
REQUIRED: dict[Part, str] = {
    "evaluation": "agentkit eval SUITE --log-dir FOLDER",
    "refusals": "modelstack release tamper STAGE --rows ROWS --out FILE",
    "red team": "modelstack attack MODEL --rows ROWS --out FOLDER",
    "tamper": "modelstack release tamper STAGE --rows ROWS --out FILE",
    "contamination": "modelstack release contamination STAGE --data FILE --evaluations FOLDER --out FILE",
    "memorisation": "modelstack release memorisation STAGE --data FILE --out FILE",
}
"""Parts without which nothing is released, each with a command that measures it."""
Better = Literal["higher", "lower", "neither"]


class Measured(BaseModel, frozen=True, extra="forbid"):
    """Measured value with its 95 % interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    n: int = Field(ge=1)
    """Number of cases."""

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the value {self.value} is outside its interval, {self.low} to {self.high}")
        return self

    def __str__(self) -> str:
        """Return the value with interval and number of cases."""
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g}, n = {self.n:,})"


class HubSet(BaseModel, frozen=True, extra="forbid"):
    """Benchmark on the Hugging Face Hub, for `.eval_results`."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    task_id: str = Field(min_length=1)
    revision: str | None = None


class Figure(Measured, frozen=True, extra="forbid"):
    """Figure of a release."""

    part: Part
    name: str = Field(min_length=1, max_length=200)
    """Name, unique within its part."""
    better: Better
    """Direction of improvement; figures with `neither` are reported and never compared."""
    seed: int = 0
    command: str = Field(min_length=1)
    """Command that prints the figure."""
    before: Measured | None = None
    """The same measurement of the stage before."""
    dataset: HubSet | None = None
    date: str = ""
    """ISO date of the measurement."""
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Identity within a release."""
        return self.part, self.name

    @property
    def measured(self) -> Measured:
        """The value alone."""
        return Measured(value=self.value, low=self.low, high=self.high, n=self.n)


class Results(BaseModel, frozen=True, extra="forbid"):
    """Content of a results file."""

    format: Literal["modelstack.align.release.results/1"] = FORMAT
    weights_sha256: str | None = Field(default=None, pattern=SHA256)
    """Weights that were measured (`subject.weights_sha256`); None: not recorded by the measuring program."""
    figures: tuple[Figure, ...] = ()
    notes: dict[Part, tuple[str, ...]] = {}
    """Sentences printed beside the figures of a part."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        keys = [each.key for each in self.figures]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"figure {twice[1]!r} of {twice[0]!r} is given twice; names must be unique in a part")
        return self

    def save(self, path: Path) -> None:
        """Write the file, readable by `read_results`."""
        with replacing(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def share(part: Part, name: str, n: int, of: int, *, better: Better, command: str, **others: Any) -> Figure:
    """Return the figure of a share with Wilson's interval.

    Raises:
        UserError: There are no cases.
    """
    if of < 1:
        raise UserError(f"{part}, {name!r}: no case was measured; give at least one")
    rate = Rate(n, of)
    low, high = rate.interval
    value = n / of
    # Wilson's bounds of none and of all are exact up to rounding.
    bounds = {"low": min(low, value), "high": max(high, value)}
    return Figure(part=part, name=name, value=value, n=of, better=better, command=command, **bounds, **others)


def figure_of(found: Measurement, better: Better, command: str, before: Measurement | None, seed: int) -> Figure:
    """Return a measurement of a stage's record as a figure; without an interval, the value is its own."""

    def measured(each: Measurement) -> dict[str, Any]:
        low, high = (each.value if bound is None else bound for bound in (each.low, each.high))
        return {"value": each.value, "low": low, "high": high, "n": each.n}

    return Figure(
        part="evaluation",
        name=found.name,
        better=better,
        command=command,
        seed=seed,
        note=found.note,
        before=None if before is None else Measured(**measured(before)),
        **measured(found),
    )


def is_worse(before: Measured, after: Measured, better: Better) -> bool:
    """Whether a figure got worse beyond the 95 % interval of the difference.

    The interval is the square-and-add method of Zou and Donner (2008), which is Newcombe's method 10 for shares.
    """
    if better == "neither":
        return False
    old, new = (before, after) if better == "higher" else (after, before)
    # With the names of `higher`: worse if the upper bound of new - old is below 0.
    upper = new.value - old.value + math.hypot(new.high - new.value, old.value - old.low)
    return upper < 0


def read_results(path: Path) -> Results:
    """Return the results of a file, JSON or TOML, of this module's format.

    Raises:
        UserError: The file is missing, too large, or not of the format.
    """
    if not path.is_file():
        raise UserError(f"results {path} do not exist: give a file, or the folder of an evaluation or attack")
    try:
        content = (
            read_toml(path, "results") if path.suffix == ".toml" else read_json_object(path, MAX_RESULTS_BYTES)
        )
        return Results.model_validate(content)
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        where = ""
        if isinstance(error, ValidationError):
            fault = error.errors(include_url=False)[0]
            where = f"{'.'.join(map(str, fault['loc']))}: {reason_of(fault)}"
        raise UserError(f"{path} is not a file of results ({FORMAT}): {where or error}") from error


def merged(several: Iterable[Results]) -> tuple[tuple[Figure, ...], dict[Part, tuple[str, ...]]]:
    """Return the figures and notes of several files.

    Raises:
        UserError: Two files have a figure of the same name with different values.
    """
    figures: dict[tuple[str, str], Figure] = {}
    notes: dict[Part, tuple[str, ...]] = {}
    for each in several:
        for figure in each.figures:
            known = figures.setdefault(figure.key, figure)
            if known != figure:
                raise UserError(
                    f"{figure.part}, {figure.name!r}: two results files give {known} and {figure}; leave one out"
                )
        for part, sentences in each.notes.items():
            notes[part] = tuple(dict.fromkeys((*notes.get(part, ()), *sentences)))
    return tuple(figures.values()), notes


def of_part(figures: Sequence[Figure], part: Part) -> list[Figure]:
    """Return the figures of a part."""
    return [each for each in figures if each.part == part]
