"""Content of `release.json`: everything that card, bill and gate are made from."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, Field, FiniteFloat

from modelstack.align.release.about import About
from modelstack.align.release.figures import Figure, Part
from modelstack.align.release.provenance import DataOfStage
from modelstack.posttrain.stages.record import StageRecord
from modelstack.posttrain.stages.stage import ADAPTER, ADAPTER_GGUF, MODEL

FORMAT = "modelstack.align.release/1"
FORWARD, BACKWARD_STATES, BACKWARD_WEIGHTS = 2, 2, 2
"""FLOPs for each parameter and token of a pass; the gradient of the weights is left out for frozen weights."""


class ModelFacts(BaseModel, frozen=True, extra="forbid"):
    """Sizes of the model, from its config and tokenizer."""

    family: str
    n_parameters: int = Field(ge=1)
    """Number of parameters, those of the adapter included."""
    vocab_size: int
    context: int
    """Longest input in tokens."""
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    rope_dimension: int
    gguf_type: str
    """Most frequent number type of the GGUF file's tensors."""


class Parity(BaseModel, frozen=True, extra="forbid"):
    """Agreement of the GGUF file with the safetensors files."""

    n_tensors: int = Field(ge=1)
    max_difference: FiniteFloat = Field(ge=0)
    """Largest difference of two weights, relative to the largest weight of their tensor."""


class Compute(BaseModel, frozen=True, extra="forbid"):
    """Compute and energy of the stage and its earlier stages; an estimate."""

    tokens: int = Field(ge=0)
    seconds: FiniteFloat = Field(ge=0)
    flops: FiniteFloat = Field(ge=0)
    """FLOPs of the training tokens: parameters x tokens x 4 for adapters, x 6 for all weights."""
    watt_hours: FiniteFloat = Field(ge=0)
    """Thermal design power x seconds."""


class Release(BaseModel, frozen=True, extra="forbid"):
    """A release, without its files."""

    format: Literal["modelstack.align.release/1"] = FORMAT
    about: About
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    stage: StageRecord
    model: ModelFacts
    parity: Parity | None = None
    """None: the release has weights in one format."""
    data: tuple[DataOfStage, ...] = Field(min_length=1)
    """Training data of the stage, then of each earlier stage."""
    compute: Compute
    figures: tuple[Figure, ...]
    notes: dict[Part, tuple[str, ...]] = {}
    measured_weights: tuple[str, ...] = ()
    """SHA-256 of the weights that the results files name."""

    @property
    def weights_sha256(self) -> str:
        """Identity of the weights."""
        return weights_sha256(self.stage)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter."""
        return any(name == ADAPTER_GGUF or name.startswith(f"{ADAPTER}/") for name in self.stage.files)


def weights_sha256(record: StageRecord) -> str:
    """Return the identity of a stage's weights: the hash of its GGUF adapter, else of the hashes of its files.

    A shipped stage and its unpacked copy have different records and the same identity.
    """
    if (facts := record.files.get(ADAPTER_GGUF)) is not None:
        return facts.sha256
    files = {name: each for name, each in record.files.items() if name.startswith((f"{ADAPTER}/", f"{MODEL}/"))}
    lines = "".join(f"{facts.sha256}  {name}\n" for name, facts in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def compute_of(record: StageRecord, data: tuple[DataOfStage, ...], n_parameters: int, watts: float) -> Compute:
    """Return the estimate of compute and energy over all stages."""
    is_lora = record.recipe.get("train", "lora") == "lora"
    per_parameter = FORWARD + BACKWARD_STATES + (0 if is_lora else BACKWARD_WEIGHTS)
    tokens, seconds = sum(each.tokens for each in data), sum(each.seconds for each in data)
    return Compute(
        tokens=tokens,
        seconds=seconds,
        flops=float(per_parameter) * n_parameters * tokens,
        watt_hours=watts * seconds / 3600,
    )
