"""Recipe of a specialisation: numbers of examples by sort, training length and evaluation."""

from __future__ import annotations

import hashlib
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

SORTS = ("call", "parallel", "multi", "removed", "foreign", "clarify")
"""Sorts: one call; several calls of one tool; several tools; tool missing; unrelated request; value missing."""
DEFAULT_SHARES = {
    "call": 0.56, "parallel": 0.08, "multi": 0.12, "removed": 0.08, "foreign": 0.08, "clarify": 0.08,
}  # fmt: skip


class ReinforceOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of reinforcement after fine-tuning."""

    steps: int = Field(default=40, gt=0)
    """Optimizer steps."""
    prompts: int = Field(default=4, gt=0)
    """Requests per step."""
    group: int = Field(default=8, ge=2)
    """Replies sampled per request."""
    max_tokens: int = Field(default=96, gt=0)
    """Maximum tokens of a reply."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of reinforcement."""


class SpecialiseRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe of a specialisation."""

    name: str = Field(default="specialised", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""
    examples: int = Field(default=900, ge=20)
    """Training examples over the live tools."""
    test_examples: int = Field(default=150, ge=10)
    """Held-out test examples, with other wordings and other values."""
    shares: dict[str, float] = DEFAULT_SHARES
    """Shares of the examples by sort."""
    general_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of training examples over other tools, which preserve earlier abilities."""
    paraphrase_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the requests that a model rewrites; ignored without a model."""
    whole_list_share: float = Field(default=0.3, ge=0, le=1)
    """Share of training examples that show all live tools; the others show some, which takes fewer tokens."""
    max_tools: int = Field(default=6, ge=1)
    """Maximum number of tools shown by the other examples."""
    execute: Literal["read-only", "never"] = "read-only"
    """Calls of tools that declare themselves read-only, to find values and to test examples: allowed or never."""
    minutes: float = Field(default=60, gt=0)
    """Maximum minutes of training."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training examples."""
    row_tokens: int = Field(default=2048, ge=256)
    """Tokens of a row; longer examples are dropped and counted."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate; None: 5e-4 when continuing an adapter, 1e-3 for a new one."""

    reinforce: ReinforceOptions | None = None
    """Reinforcement after fine-tuning; None: no reinforcement."""

    @model_validator(mode="after")
    def _shares_are_known(self) -> Self:
        if unknown := sorted(set(self.shares) - set(SORTS)):
            raise ValueError(f"shares names unknown sorts {unknown}; known: {', '.join(SORTS)}")
        if not self.shares.get("call"):
            raise ValueError("shares needs some of the sort 'call': without calls there is nothing to learn")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings that determine the data."""
        content = self.model_dump_json(exclude={"minutes", "epochs", "lr", "name", "reinforce"})
        return hashlib.sha256(content.encode()).hexdigest()
