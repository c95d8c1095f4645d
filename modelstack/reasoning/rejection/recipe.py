"""What a rejection sampling is made of: a policy, tasks, a verifier, how often, and what is kept."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, Field

from modelstack.posttrain.stages.record import Origin
from modelstack.reasoning.rejection.rules import KeepRules
from modelstack.reasoning.sampling.frozen_model import Device, Precision
from modelstack.reasoning.tasks.verifier_choice import VerifierChoice


class SampleRecipe(BaseModel, frozen=True, extra="forbid"):
    """What is sampled, and what is kept of it."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    model: str
    """A GGUF file, a checkpoint folder, or the folder of a stage."""
    weights: str | None = None
    """Of a stage that is an adapter: what it goes on; none: where its own run had it from."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Files of tasks (`reasoning.tasks.task`); no id comes twice in them."""
    verifier: VerifierChoice
    """A name, or a table with a gate of form and more."""
    threshold: float = Field(default=1.0, gt=0)
    """The least reward of a right reply."""
    seed: int = Field(default=0, ge=0)
    replies: int = Field(default=4, ge=1)
    """To each task."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    keep: KeepRules = KeepRules()
    tasks_at_once: int = Field(default=16, ge=1)
    """Sampled together, and written together."""
    precision: Precision = "fp32"
    device: Device = "auto"
    threads: int | None = Field(default=None, gt=0)
    """On a CPU; none: torch's own choice. Sums differ with it."""


class SampleResolved(BaseModel, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: SampleRecipe
    model: Origin
    model_sha256: str
    tasks_sha256: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


FREE = {("recipe", name) for name in ("name", "model", "weights")}
"""What may change between a stop and going on: the model is known by its hash."""
LAYOUT = {("recipe", name) for name in ("threads", "device", "tasks_at_once")}
"""What moves sums by rounding."""
