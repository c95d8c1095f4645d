"""Content of `stage.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from modelstack.files import sha256_of

Kind = Literal["base", "sft", "preference", "reasoning", "distilled", "merged", "drafter", "guard"]
SHA256 = r"^[0-9a-f]{64}$"
VERSION = 1


class FileFacts(BaseModel, frozen=True, extra="forbid"):
    """Size and hash of a file of a stage."""

    n_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)

    @classmethod
    def of(cls, file: Path) -> Self:
        """Return the facts of a file."""
        return cls(n_bytes=file.stat().st_size, sha256=sha256_of(file))

    def fault_of(self, folder: Path, name: str) -> str | None:
        """Return how the folder's file differs from these facts, as a sentence; None if it does not."""
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != self.n_bytes:
            return f"{name} has {file.stat().st_size:,} bytes, the record has {self.n_bytes:,}"
        if sha256_of(file) != self.sha256:
            return f"{name} has changed content (SHA-256)"
        return None


class Origin(BaseModel, frozen=True, extra="forbid"):
    """A stage, or a base without a record, as recorded by its descendants."""

    kind: Kind
    name: str
    sha256: str = Field(pattern=SHA256)
    """Fingerprint of a stage; for a base without a record, the SHA-256 of its weights."""
    parents: tuple[Origin, ...] = ()


class DataFile(BaseModel, frozen=True, extra="forbid"):
    """A file of examples, with counts of the examples that were used."""

    name: str
    role: Literal["training", "validation"]
    sha256: str = Field(pattern=SHA256)
    n_examples: int
    share: float | None = None
    """Share of the training tokens, if the recipe sets one."""
    kinds: dict[str, int] = {}
    sources: dict[str, int] = {}
    licences: dict[str, int] = {}
    """Number of examples by kind, by source and by licence."""


class DataManifest(BaseModel, frozen=True, extra="forbid"):
    """All data that a stage was trained and measured on."""

    files: tuple[DataFile, ...] = ()
    n_too_long: int = 0
    """Training examples that were longer than a row and therefore left out."""
    reports: dict[str, Any] = {}
    """Reports stored with the data by its makers: decontamination, filters, seeds."""


class Measurement(BaseModel, frozen=True, extra="forbid"):
    """Measured figure."""

    name: str
    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    """Bounds of the 95 % interval."""
    n: int = Field(ge=1)
    """Number of examples."""
    note: str = ""


class Evaluation(BaseModel, frozen=True, extra="forbid"):
    """The same measurements of the parent and of the stage."""

    before: tuple[Measurement, ...] = ()
    after: tuple[Measurement, ...] = ()


class StageRecord(BaseModel, frozen=True, extra="forbid"):
    """Record of a stage, without its fingerprint."""

    version: Literal[1] = VERSION
    kind: Kind
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    what: str
    """Sentence that describes how the stage was trained."""
    parents: tuple[Origin, ...] = ()
    base_sha256: str = Field(pattern=SHA256)
    """Hash of the base of an adapter, or of the weights that full training started from."""
    recipe: dict[str, Any] = {}
    """Resolved recipe."""
    recipe_sha256: str = Field(pattern=SHA256)
    seed: int = 0
    data: DataManifest = DataManifest()
    evaluation: Evaluation = Evaluation()
    metrics: dict[str, FiniteFloat | int | str] = {}
    """Figures of the training: steps, tokens, seconds, last loss."""
    versions: dict[str, str] = {}
    """Versions of software, and the kind of machine, that the bits depend on."""
    files: dict[str, FileFacts] = {}
    """All files of the folder except `stage.json`, by path."""

    @model_validator(mode="after")
    def _check_parents(self) -> Self:
        if self.kind != "base" and not self.parents:
            raise ValueError(f"a stage of kind {self.kind!r} needs parents; only a base has none")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the record, and through its hashes of all files."""
        # Without defaults, so that a later version can add a key without changing older fingerprints.
        content = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    @property
    def origin(self) -> Origin:
        """The stage as its children record it."""
        return Origin(kind=self.kind, name=self.name, sha256=self.fingerprint, parents=self.parents)


def canonical(values: dict[str, Any]) -> str:
    """Return JSON text that is equal for equal content."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
