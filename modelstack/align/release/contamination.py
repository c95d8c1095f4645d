"""Contamination report: training rows that repeat a text of an evaluation.

Rows are compared by the rules of the pipeline's step `decontaminate`. Without the rows, the report is that of the
record: `data tools` compares its examples before the training, drops those that repeat, and stores the counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from modelstack.align.release.figures import Figure, Results, share
from modelstack.align.release.parts import weights_sha256
from modelstack.data.contamination import Decontaminate
from modelstack.data.examples import example_lines
from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.stages.record import StageRecord

COMMAND = "modelstack release contamination"
_NOT_TEXT = frozenset({"id", "source", "license", "split", "kind", "pair", "tools", "role"})
"""Keys of rows whose values are no text of the conversation."""
_REPORT = "decontamination"


def recorded_results(record: StageRecord) -> Results:
    """Return what the record says about the removal of rows before the training; no figure without a report."""
    figures: list[Figure] = []
    for name, report in record.data.reports.items():
        train = report.get("train", {}) if name.startswith(_REPORT) and isinstance(report, dict) else {}
        dropped, n_seen = train.get("dropped", {}), train.get("examples_seen", 0)
        n_kept = n_seen - sum(dropped.values())
        if n_kept < 1:
            continue
        note = (
            f"{n_seen - n_kept:,} of {n_seen:,} examples repeated one of {train.get('evaluation_texts', 0):,} "
            f"texts of {len(train.get('files', ()))} evaluation files, and were dropped before the training"
        )
        figures.append(
            share(
                "contamination",
                f"kept rows that repeat an evaluation, {name}",
                0,
                n_kept,
                better="lower",
                command="modelstack data tools",
                note=note,
            )
        )
    return Results(weights_sha256=weights_sha256(record), figures=tuple(figures))


def measured_results(
    record: StageRecord,
    files: Sequence[Path],
    evaluations: Sequence[Path],
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Results:
    """Compare training files with evaluation files.

    A merged stage has no training files of its own: those of its parts are compared, and the notes say so.

    Args:
        record: Record of the stage, whose manifest names the files by hash.
        files: Training files, JSON lines, plain or zstd.
        evaluations: JSON files of evaluations, or folders of them.
        told: Callback for the number of compared files, and of all.

    Raises:
        UserError: A training file is not the one of the record, or an evaluation is missing.
    """
    known = {file.sha256: file.name for file in record.data.files if file.role == "training"}
    index = Decontaminate(evaluations=tuple(evaluations)).index()
    options = "".join(f" --evaluations {each.name}" for each in evaluations)
    figures: list[Figure] = []
    for number, file in enumerate(files, 1):
        sha256 = sha256_of(file)
        if sha256 not in known and record.kind != "merged":
            raise UserError(
                f"{file} (SHA-256 {sha256[:12]}) is no training file of stage {record.name!r}; its record has "
                f"{', '.join(f'{name} ({each[:12]})' for each, name in known.items()) or 'none'}"
            )
        found = [index.find("\n".join(strings_of(row)), 0.7) for row in rows_of(file)]
        names = sorted({each.evaluation for each in found if each is not None})
        figures.append(
            share(
                "contamination",
                f"rows of {known.get(sha256, file.name)} that repeat an evaluation",
                sum(each is not None for each in found),
                len(found),
                better="lower",
                command=f"{COMMAND} STAGE --data {file.name}{options}",
                note=f"{len(index.evaluations)} evaluations{': ' if names else ''}{', '.join(names)}",
            )
        )
        told(number, len(files))
    notes = tuple(
        f"{name} was not compared." for name in known.values() if not any(name in f.name for f in figures)
    )
    if record.kind == "merged":
        notes = tuple(f"{file.name} is not a training file of the stage's record." for file in files)
    return Results(
        weights_sha256=weights_sha256(record),
        figures=tuple(figures),
        notes={"contamination": notes} if notes else {},
    )


def rows_of(file: Path) -> Iterator[Any]:
    """Yield the rows of a file of JSON lines, plain or zstd.

    Raises:
        UserError: The file cannot be read, or a line is too long or not JSON.
    """
    for number, line in enumerate(example_lines(file), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}, line {number} is not JSON: {error}") from error


def strings_of(value: Any) -> Iterable[str]:
    """Yield the texts of a row's conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NOT_TEXT:
                yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)
