"""Facts of a release that no record holds: licence, base, intended uses, limits, contact; a TOML file."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.align.release.figures import Better
from modelstack.posttrain.stages.record import SHA256

PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class BaseModelFacts(BaseModel, frozen=True, extra="forbid"):
    """Model that the weights go on or were trained from."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")
    """Identifier on the Hugging Face Hub."""
    licence: str
    """SPDX identifier."""
    relation: Literal["finetune", "adapter", "quantized", "merge"] = "adapter"
    """Relation of the release to the base."""


class Risk(BaseModel, frozen=True, extra="forbid"):
    """Risk of use, with its mitigation."""

    name: str = Field(min_length=1)
    mitigation: str = Field(min_length=1)


class Links(BaseModel, frozen=True, extra="forbid"):
    """Addresses of the release."""

    website: str = Field(pattern=r"^https://")
    source: str = Field(pattern=r"^https://")
    """Repository of the code."""
    download: str = Field(pattern=r"^https://")
    """Place where the folder is published."""
    paper: str = Field(pattern=r"^https://")
    """Paper or page that describes the method."""


class Energy(BaseModel, frozen=True, extra="forbid"):
    """Power of the machine that trained, for the estimate of energy."""

    watts: float = Field(gt=0)
    """Thermal design power of the used processors or accelerators, in watts."""
    note: str = Field(min_length=1)
    """Machine, and the source of the number."""


class Earlier(BaseModel, frozen=True, extra="forbid"):
    """Earlier stage whose record is lost: its data as a person states them."""

    name: str
    sha256: str = Field(pattern=SHA256)
    """Fingerprint, as the lineage of the released stage records it."""
    sources: tuple[str, ...] = Field(min_length=1)
    licences: tuple[str, ...] = Field(min_length=1)
    """Licences of all training rows."""
    statement: str = Field(min_length=20)
    """Sentence that says where the data are described; it is printed in the card."""
    tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    """Training tokens and seconds, for the estimate of energy."""


class About(BaseModel, frozen=True, extra="forbid"):
    """Facts of a release."""

    name: str = Field(pattern=PLAIN_NAME)
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+-]*$")
    summary: str = Field(min_length=20)
    licence: str
    """SPDX identifier of the licence of the folder."""
    notice: tuple[str, ...] = ()
    """Paragraphs of NOTICE: credits of base and data."""
    base: BaseModelFacts
    languages: tuple[str, ...] = Field(min_length=1)
    """Codes of ISO 639-1."""
    tags: tuple[str, ...] = ()
    supplier: str = Field(min_length=1)
    contact: str = Field(min_length=3)
    """Address for questions and for reports of harm."""
    domain: str
    autonomy: str
    """Actions that the model takes without a person: answering, proposing calls, acting."""
    users: tuple[str, ...] = Field(min_length=1)
    uses: tuple[str, ...] = Field(min_length=1)
    """Intended uses."""
    limits: tuple[str, ...] = Field(min_length=1)
    risks: tuple[Risk, ...] = Field(min_length=1)
    fairness: str = Field(min_length=10)
    """Groups that may be disadvantaged, and what was measured about it."""
    explanation: str = Field(min_length=10)
    """Means to see why the model did something."""
    threshold: str = Field(min_length=1)
    """Decision threshold of its probabilities, or why there is none."""
    preprocessing: str = Field(min_length=10)
    personal_data: str = Field(min_length=5)
    """Personal data in the training rows."""
    links: Links
    energy: Energy
    better: dict[str, Better] = {"validation loss": "lower"}
    """Direction of improvement of the record's measurements, by name."""
    earlier: tuple[Earlier, ...] = ()
    files: tuple[str, ...] = ()
    """Names of further files of the stage's folder, for example a fitted prior."""
    max_contamination: float = Field(default=0.01, ge=0, le=1)
    """Maximum share of training rows that repeat an evaluation."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if wrong := [name for name in self.files if not re.match(PLAIN_NAME, name)]:
            raise ValueError(f"file {wrong[0]!r} must be a plain name in the stage's folder")
        return self
