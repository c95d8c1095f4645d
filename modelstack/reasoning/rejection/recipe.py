"""Recipe of rejection sampling: policy, tasks, verifier, number of replies and rules for keeping them."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, Field

from modelstack.posttrain.stages.record import Origin
from modelstack.reasoning.rejection.rules import KeepRules
from modelstack.reasoning.sampling.frozen_model import Device, Precision
from modelstack.reasoning.tasks.verifier_choice import VerifierChoice


class SampleRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe of rejection sampling."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    model: str
    """Policy: a GGUF file, a checkpoint folder, or the folder of a stage."""
    weights: str | None = None
    """Base weights of a stage that is an adapter; None: the path recorded by its run."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Task files (`reasoning.tasks.task`); ids must be unique across all files."""
    verifier: VerifierChoice
    """Name of a verifier, or a table with more settings such as a format gate."""
    threshold: float = Field(default=1.0, gt=0)
    """Minimum reward of a correct reply."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""
    replies: int = Field(default=4, ge=1)
    """Number of replies per task."""
    max_tokens: int = Field(default=128, ge=1)
    """Maximum tokens of a reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    keep: KeepRules = KeepRules()
    forget_system: bool = False
    """Whether examples leave out system messages, so that a model learns to follow them unasked.

    This is context distillation (2112.00861), and how deliberative alignment (2412.16339) teaches a policy.
    """
    tasks_at_once: int = Field(default=16, ge=1)
    """Number of tasks that are sampled and written together."""
    precision: Precision = "fp32"
    """Number type of the computation."""
    device: Device = "auto"
    """Device; `auto`: CUDA if available."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None: torch's default. Rounding of sums depends on it."""


class SampleResolved(BaseModel, frozen=True):
    """Recipe with hashes of all inputs; a resumed run must match it."""

    recipe: SampleRecipe
    model: Origin
    model_sha256: str
    tasks_sha256: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved recipe."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


FREE = {("recipe", name) for name in ("name", "model", "weights")}
"""Keys that may change when a run is resumed; the model is identified by its hash."""
LAYOUT = {("recipe", name) for name in ("threads", "device", "tasks_at_once")}
"""Keys that change sums by rounding only."""
