"""Summary of scored runs: n, score, interval, failures, seconds and tokens per case for each group."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agentkit.errors import UserError
from evals.case import Case, Run, Score
from evals.harness.suite import Table
from evals.statistics import Interval, mean_interval
from modelstack.files import json_lines

RESULTS_FILE = "scores.jsonl"
SUMMARY_FILE = "summary.json"
ALL = "all"
"""Group name of the summary line over all groups."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A run with its case and its score."""

    case: Case
    run: Run
    score: Score


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the summary table."""

    group: str
    score: Interval
    """Mean score over cases with its interval; a case with several epochs counts once, with its mean."""
    n_failed: int
    """Number of runs that ended in an error or a time-out; they count as failures in the score."""
    wall_s: float
    """Mean wall-clock seconds per run."""
    tokens: float
    """Mean tokens per run, input and output."""
    numbers: dict[str, float]
    """Means of the scorer's further measurements, over the runs that have them."""


def summarise(scored: Sequence[Scored], *, seed: int = 0) -> list[Line]:
    """Return one line per group in order of appearance, and a line over all if there are several groups."""
    groups: dict[str, list[Scored]] = {}
    for each in scored:
        groups.setdefault(each.case.group, []).append(each)
    lines = [_line(name or ALL, members, seed) for name, members in groups.items()]
    return lines if len(groups) < 2 else [*lines, _line(ALL, scored, seed)]


def rows(scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """Return one flat row per run, for other tools and for `compare`."""
    return [
        {
            "case_id": s.run.case_id,
            "epoch": s.run.epoch,
            "group": s.case.group,
            "value": s.score.value,
            "status": s.run.status,
            "answer": s.score.answer,
            "explanation": s.score.explanation,
            "error": s.run.error,
            "wall_s": round(s.run.wall_s, 4),
            "cpu_s": round(s.run.cpu_s, 4),
            "requests": s.run.usage.requests,
            "tool_calls": s.run.usage.tool_calls,
            "input_tokens": s.run.usage.input_tokens,
            "cached_tokens": s.run.usage.cache_read_tokens,
            "output_tokens": s.run.usage.output_tokens,
            **s.score.numbers,
        }
        for s in scored
    ]


def write_results(
    folder: Path, record: Mapping[str, Any], scored: Sequence[Scored], lines: Sequence[Line]
) -> None:
    """Write the rows as JSON lines and CSV, and the summary as JSON; each file is replaced atomically."""
    table = rows(scored)
    columns = list(dict.fromkeys(key for row in table for key in row))
    replace_file(folder / RESULTS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    csv_path = folder / "scores.csv"
    new = csv_path.with_suffix(".csv.new")
    with new.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(table)
    new.replace(csv_path)
    summary = {**record, "lines": [asdict(line) for line in lines]}
    replace_file(folder / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a finished evaluation.

    Raises:
        UserError: the folder holds no rows, or they cannot be read.
    """
    path = folder / RESULTS_FILE
    try:
        return [json.loads(line) for line in json_lines(path)]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: name the folder of a finished `agentkit eval`.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def summary_table(title: str, lines: Sequence[Line]) -> Table:
    """Format the summary as a table of text cells."""
    numbers = list(dict.fromkeys(name for line in lines for name in line.numbers))
    columns = ("group", "n", "score", "95 % interval", "failed", "s/case", "tokens/case", *numbers)
    cells = [
        (
            line.group,
            str(line.score.n),
            f"{line.score.value:.3f}",
            f"{line.score.low:.3f} to {line.score.high:.3f}",
            str(line.n_failed),
            f"{line.wall_s:.2f}",
            f"{line.tokens:.0f}",
            *(f"{line.numbers[name]:.3f}" if name in line.numbers else "" for name in numbers),
        )
        for line in lines
    ]
    return Table(title, columns, tuple(cells))


def replace_file(path: Path, text: str) -> None:
    """Replace a file atomically: write it under a temporary name, then rename it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _line(name: str, scored: Sequence[Scored], seed: int) -> Line:
    by_case: dict[str, list[float]] = {}
    for each in scored:
        by_case.setdefault(each.case.id, []).append(each.score.value)
    numbers = dict.fromkeys(key for each in scored for key in each.score.numbers)
    return Line(
        group=name,
        score=mean_interval([fmean(values) for values in by_case.values()], seed=seed),
        n_failed=sum(each.run.status in ("failed", "timed_out") for each in scored),
        wall_s=fmean(each.run.wall_s for each in scored),
        tokens=fmean(each.run.usage.total_tokens for each in scored),
        numbers={key: _mean(each.score.numbers.get(key) for each in scored) for key in numbers},
    )


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan
