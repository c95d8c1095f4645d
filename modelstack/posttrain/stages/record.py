"""What `stage.json` holds, as plain data."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

Kind = Literal["base", "sft", "preference", "reasoning", "distilled", "merged"]
SHA256 = r"^[0-9a-f]{64}$"
VERSION = 1


class FileFacts(BaseModel, frozen=True, extra="forbid"):
    """A file of a stage."""

    n_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)


class Origin(BaseModel, frozen=True, extra="forbid"):
    """A stage, or a base that is no stage, as its descendants remember it."""

    kind: Kind
    name: str
    sha256: str = Field(pattern=SHA256)
    """Fingerprint of a stage; of a base without one, the SHA-256 of its weights."""
    parents: tuple[Origin, ...] = ()


class DataFile(BaseModel, frozen=True, extra="forbid"):
    """A file of examples, and what was taken of it."""

    name: str
    role: Literal["training", "validation"]
    sha256: str = Field(pattern=SHA256)
    n_examples: int
    share: float | None = None
    """Of what was trained on, where the recipe says one."""
    kinds: dict[str, int] = {}
    sources: dict[str, int] = {}
    licences: dict[str, int] = {}
    """Examples of each."""


class DataManifest(BaseModel, frozen=True, extra="forbid"):
    """All that a stage learnt from and was measured on."""

    files: tuple[DataFile, ...] = ()
    n_too_long: int = 0
    """Examples of the training files that no row could hold; they were left out."""
    reports: dict[str, Any] = {}
    """What the makers of the data wrote beside it: decontamination, filters, seeds."""


class Measurement(BaseModel, frozen=True, extra="forbid"):
    """One figure."""

    name: str
    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    """95 % interval."""
    n: int = Field(ge=1)
    """Examples that it is of."""
    note: str = ""


class Evaluation(BaseModel, frozen=True, extra="forbid"):
    """The same questions to the parent and to the stage."""

    before: tuple[Measurement, ...] = ()
    after: tuple[Measurement, ...] = ()


class StageRecord(BaseModel, frozen=True, extra="forbid"):
    """Everything that is known of a stage but its own fingerprint."""

    version: Literal[1] = VERSION
    kind: Kind
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    what: str
    """One sentence: how it was trained."""
    parents: tuple[Origin, ...] = ()
    base_sha256: str = Field(pattern=SHA256)
    """Of the weights that an adapter goes on, or that training began with."""
    recipe: dict[str, Any] = {}
    """Resolved."""
    recipe_sha256: str = Field(pattern=SHA256)
    seed: int = 0
    data: DataManifest = DataManifest()
    evaluation: Evaluation = Evaluation()
    metrics: dict[str, FiniteFloat | int | str] = {}
    """Of the training: steps, tokens, seconds, last loss."""
    versions: dict[str, str] = {}
    """What bits depend on: software, and the kind of machine."""
    files: dict[str, FileFacts] = {}
    """By path in the folder; all of it but `stage.json`."""

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.kind != "base" and not self.parents:
            raise ValueError(f"a stage of kind {self.kind!r} has parents; only a base has none")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the record, and so of all files."""
        # Without defaults: a key that a later version adds leaves the fingerprints of older stages as they are.
        content = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    @property
    def origin(self) -> Origin:
        """The stage as its children remember it."""
        return Origin(kind=self.kind, name=self.name, sha256=self.fingerprint, parents=self.parents)


def canonical(values: dict[str, Any]) -> str:
    """Return JSON that is the same for equal content."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
