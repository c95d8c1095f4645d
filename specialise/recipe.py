"""What a specialisation is made of: how many examples of which sorts, how long it trains, how it is judged."""

from __future__ import annotations

import hashlib
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

SORTS = ("call", "parallel", "multi", "removed", "foreign", "clarify")
"""One call; several of one tool; several tools; the tool is not there; another field; a missing value."""
DEFAULT_SHARES = {
    "call": 0.56, "parallel": 0.08, "multi": 0.12, "removed": 0.08, "foreign": 0.08, "clarify": 0.08,
}  # fmt: skip


class ReinforceOptions(BaseModel, frozen=True, extra="forbid"):
    """Reinforcement after fine-tuning: how long, and on how many tries."""

    steps: int = Field(default=40, gt=0)
    prompts: int = Field(default=4, gt=0)
    """Requests of a step."""
    group: int = Field(default=8, ge=2)
    """Replies to each."""
    max_tokens: int = Field(default=96, gt=0)
    """Of a reply."""
    lr: float = Field(default=1e-4, gt=0)


class SpecialiseRecipe(BaseModel, frozen=True, extra="forbid"):
    """A specialisation."""

    name: str = Field(default="specialised", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(default=0, ge=0)
    examples: int = Field(default=900, ge=20)
    """To train on, of the live tools."""
    test_examples: int = Field(default=150, ge=10)
    """Held back: other words, other values."""
    shares: dict[str, float] = DEFAULT_SHARES
    """Of the examples, by sort."""
    general_share: float = Field(default=0.25, ge=0, lt=1)
    """Of all examples to train on, those over other tools: what was learnt before is not to be forgotten."""
    paraphrase_share: float = Field(default=0.25, ge=0, le=1)
    """Of the requests, those that a model says in other words; none where no model is given."""
    whole_list_share: float = Field(default=0.3, ge=0, le=1)
    """Of the training examples, those that show all live tools; the others show some, which costs less to read."""
    max_tools: int = Field(default=6, ge=1)
    """Tools that the others show at most."""
    execute: Literal["read-only", "never"] = "read-only"
    """Whether tools that say of themselves that they only read are called: for values, and to try the examples."""
    minutes: float = Field(default=60, gt=0)
    """Training takes at most so long."""
    epochs: float = Field(default=1.0, gt=0)
    row_tokens: int = Field(default=2048, ge=256)
    """Of a row; an example that is longer is left out and counted."""
    lr: float | None = Field(default=None, gt=0)
    """None: 5e-4 where an adapter is gone on with, 1e-3 for a new one."""

    reinforce: ReinforceOptions | None = None
    """What follows fine-tuning; none: nothing does."""

    @model_validator(mode="after")
    def _shares_are_known(self) -> Self:
        if unknown := sorted(set(self.shares) - set(SORTS)):
            raise ValueError(f"shares names unknown sorts {unknown}; known: {', '.join(SORTS)}")
        if not self.shares.get("call"):
            raise ValueError("shares needs some of the sort 'call': without calls there is nothing to learn")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the data depend on."""
        content = self.model_dump_json(exclude={"minutes", "epochs", "lr", "name", "reinforce"})
        return hashlib.sha256(content.encode()).hexdigest()
