"""Data provenance: every training row of the stage and of its earlier stages, counted by source and by licence.

The proof is the sealed record of a stage: its counts by source and by licence must each add up to the number of
rows. An earlier stage is proven by its record, found by fingerprint. One whose record is lost is stated by a
person, and the card says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel

from modelstack.align.release.about import Earlier
from modelstack.posttrain.stages.record import DataFile, Origin, StageRecord


class DataOfStage(BaseModel, frozen=True, extra="forbid"):
    """Training data of one stage of the lineage."""

    stage: str
    sha256: str
    proof: Literal["record", "statement", "none"]
    n_rows: int = 0
    """Number of training rows; 0 if the record is lost."""
    sources: dict[str, int] = {}
    """Number of rows by source; 0: unknown."""
    licences: dict[str, int] = {}
    """Number of rows by licence; 0: unknown."""
    statement: str = ""
    tokens: int = 0
    seconds: float = 0.0


class Mismatch(BaseModel, frozen=True, extra="forbid"):
    """Data file whose counts do not add up."""

    file: str
    by: Literal["source", "licence"]
    counted: int
    n_rows: int


def lineage_of(record: StageRecord) -> list[Origin]:
    """Return the stages that the record descends from, parents first, without bases."""
    found: dict[str, Origin] = {}

    def visit(origin: Origin) -> Iterator[Origin]:
        yield origin
        for parent in origin.parents:
            yield from visit(parent)

    for parent in record.parents:
        for origin in visit(parent):
            if origin.kind != "base":
                found.setdefault(origin.sha256, origin)
    return list(found.values())


def provenance(
    record: StageRecord, earlier: Sequence[StageRecord], stated: Sequence[Earlier]
) -> tuple[DataOfStage, ...]:
    """Return the data of the stage and of each earlier stage, by record, by statement, or with proof "none"."""
    records = {each.fingerprint: each for each in earlier}
    statements = {each.sha256: each for each in stated}
    found = [recorded(record)]
    for origin in lineage_of(record):
        if (known := records.get(origin.sha256)) is not None:
            found.append(recorded(known))
        elif (said := statements.get(origin.sha256)) is not None:
            found.append(
                DataOfStage(
                    stage=origin.name,
                    sha256=origin.sha256,
                    proof="statement",
                    sources=dict.fromkeys(said.sources, 0),
                    licences=dict.fromkeys(said.licences, 0),
                    statement=said.statement,
                    tokens=said.tokens,
                    seconds=said.seconds,
                )
            )
        else:
            found.append(DataOfStage(stage=origin.name, sha256=origin.sha256, proof="none"))
    return tuple(found)


def mismatches(record: StageRecord) -> Iterator[Mismatch]:
    """Yield the training files whose rows are not all counted by source and by licence."""
    for file in _training(record):
        counted: dict[Literal["source", "licence"], dict[str, int]] = {
            "source": file.sources,
            "licence": file.licences,
        }
        for by, counts in counted.items():
            if sum(counts.values()) != file.n_examples:
                yield Mismatch(file=file.name, by=by, counted=sum(counts.values()), n_rows=file.n_examples)


def recorded(record: StageRecord) -> DataOfStage:
    """Return the training data of a stage as its record counts them."""
    sources, licences = Counter[str](), Counter[str]()
    for file in _training(record):
        sources.update(file.sources)
        licences.update(file.licences)
    tokens, seconds = record.metrics.get("tokens", 0), record.metrics.get("seconds of steps", 0.0)
    return DataOfStage(
        stage=record.name,
        sha256=record.fingerprint,
        proof="record",
        n_rows=sum(file.n_examples for file in _training(record)),
        sources=dict(sources.most_common()),
        licences=dict(licences.most_common()),
        tokens=int(tokens) if isinstance(tokens, int | float) else 0,
        seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
    )


def _training(record: StageRecord) -> list[DataFile]:
    return [file for file in record.data.files if file.role == "training"]
