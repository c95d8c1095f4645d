"""What a benchmark hands over besides its printed table: figures, comparisons with peers, and curves.

Standard library only, because `agent_loop` runs inside the environments of other SDKs too. A benchmark takes
`--result FILE` and writes one `BenchmarkResult` there; `python -m evals.speed` reads it back and adds what the
machine was.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One number."""

    name: str
    value: float
    unit: str
    low: float | None = None
    """Bounds of the 95 % interval, where one was computed."""
    high: float | None = None
    bound: float | None = None
    """What the project promises; None where it promises nothing."""
    bound_kind: Literal["at most", "at least"] = "at most"

    @property
    def holds(self) -> bool | None:
        """Whether the promise holds; None where there is none."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.bound_kind == "at most" else self.value >= self.bound


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same quantity of several programs; drawn as ratios to `ours`."""

    title: str
    unit: str
    ours: str
    """Which of `values` is this project's."""
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """A quantity along an axis, one line a program."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    ours: str = "agentkit"
    """Which of `lines` is this project's."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Everything one run of a benchmark measured."""

    figures: tuple[Figure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curves, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Model, sizes, seed: what makes two runs comparable."""
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Figure, ...]:
        """The figures whose promise does not hold."""
        return tuple(figure for figure in self.figures if figure.holds is False)


def add_result_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option that all have."""
    parser.add_argument("--result", type=Path, help="also write the figures to this file, as JSON")


def write_result(path: Path | None, result: BenchmarkResult) -> None:
    """Write a result where one was asked for."""
    if path is not None:
        write_whole(path, json.dumps(asdict(result), indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
