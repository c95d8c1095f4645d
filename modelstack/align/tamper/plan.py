"""Settings of the tamper report, and the harmless rows of its fine-tuning."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, Field

from modelstack.data.examples import Example, Message
from modelstack.files import parse_toml

_ROWS = Path(__file__).with_name("compliance.toml")
LICENCE = "Apache-2.0"


class TamperPlan(BaseModel, frozen=True, extra="forbid"):
    """Settings of the report."""

    n_direction: int = Field(default=160, ge=0)
    """Requests of each kind that the direction is found on; 0: no direction is searched."""
    n_asked: int = Field(default=64, ge=1)
    """Further requests of each kind that are answered."""
    steps: int = Field(default=100, ge=1)
    """LoRA steps of the fine-tuning."""
    rows: int = Field(default=2, ge=1)
    """Rows of a step, each with one example."""
    row_tokens: int = Field(default=96, ge=16)
    rank: int = Field(default=8, ge=1)
    """Rank of a new adapter; an adapter that is continued keeps its own."""
    lr: float = Field(default=2e-4, gt=0)
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)


@cache
def compliance_rows() -> tuple[Example, ...]:
    """Return the harmless requests with obliging answers."""
    text = _ROWS.read_text(encoding="utf-8")
    return tuple(
        Example(
            id=f"compliance-{number}",
            source="compliance",
            license=LICENCE,
            kind="answer",
            messages=(Message(role="user", content=request),),
            reply=reply,
        )
        for number, (request, reply) in enumerate(parse_toml(text, _ROWS.name)["rows"])
    )
