"""Result types of a benchmark: figures, comparisons with peers, and curves.

This module uses only the standard library, because `agent_loop` also runs in the environments of other SDKs. A
benchmark accepts `--result FILE` and writes one `BenchmarkResult` there; `python -m evals.speed` reads it and adds
a description of the machine.
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
    """A measured number."""

    name: str
    value: float
    unit: str
    low: float | None = None
    """Bounds of the 95 % interval, if one was computed."""
    high: float | None = None
    bound: float | None = None
    """Bound that the project promises; None without a promise."""
    bound_kind: Literal["at most", "at least"] = "at most"

    @property
    def holds(self) -> bool | None:
        """Whether the value is within its bound; None without a bound."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.bound_kind == "at most" else self.value >= self.bound


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same quantity of several programs; drawn as ratios to `ours`."""

    title: str
    unit: str
    ours: str
    """Name of this project's entry in `values`."""
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """A quantity along an axis, with one line per program."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    ours: str = "agentkit"
    """Name of this project's entry in `lines`."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """All measurements of one benchmark run."""

    figures: tuple[Figure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curves, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Model, sizes, seed: settings that must be equal for two runs to be comparable."""
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Figure, ...]:
        """The figures outside their bounds."""
        return tuple(figure for figure in self.figures if figure.holds is False)


def add_result_option(parser: argparse.ArgumentParser) -> None:
    """Add the `--result` option, which all benchmarks share."""
    parser.add_argument("--result", type=Path, help="also write the figures to this file, as JSON")


def write_result(path: Path | None, result: BenchmarkResult) -> None:
    """Write a result if a path is given."""
    if path is not None:
        write_whole(path, json.dumps(asdict(result), indent=1) + "\n")


def finish(path: Path | None, result: BenchmarkResult) -> int:
    """Write a result if a path is given, print broken bounds, and return the exit status: 1 if there are any."""
    write_result(path, result)
    for figure in result.broken:
        print(f"BROKEN: {figure.name} is {figure.value:.3f}, bound: {figure.bound_kind} {figure.bound}")
    return 1 if result.broken else 0


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
