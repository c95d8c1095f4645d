"""Comparison of a plan with the measured outcome, shown in a run's report.

Letters: N parameters, D tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from modelstack.decide.plan_file import Plan


class Outcome(BaseModel, frozen=True):
    """Measurements of a run; None if not measured."""

    n_parameters: int = Field(gt=0)
    n_tokens: int = Field(ge=0)
    hours: float = Field(ge=0)
    """Wall-clock hours, evaluations and checkpoints included."""
    loss: float | None = None
    """Held-out loss, nats per token."""
    utilisation: float | None = None
    """Model FLOPs divided by the device's peak."""
    peak_memory_bytes: float | None = None


class Comparison(BaseModel, frozen=True):
    """A figure, planned and measured."""

    name: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured divided by planned."""
        return self.measured / self.planned


def compare(plan: Plan, outcome: Outcome) -> tuple[Comparison, ...]:
    """Return the figures available in both, with the loss under each law."""
    training = plan.training
    figures: list[tuple[str, float, float | None]] = [
        ("parameters", plan.model.n_parameters, outcome.n_parameters),
        ("tokens", plan.n_tokens, outcome.n_tokens),
        ("hours", training.hours, outcome.hours),
        ("USD", training.usd, outcome.hours * training.n_devices * training.usd_per_hour),
        ("utilisation", plan.request.utilisation.training, outcome.utilisation),
        ("bytes on the fullest device", plan.memory.total, outcome.peak_memory_bytes),
        *((f"loss, {each.law.name}", each.loss, outcome.loss) for each in plan.expected),
    ]
    return tuple(
        Comparison(name=name, planned=planned, measured=measured)
        for name, planned, measured in figures
        if measured is not None and planned > 0
    )


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Return the comparison as a Markdown table."""
    lines = ["| | planned | measured | measured / planned |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.name} | {row.planned:.4g} | {row.measured:.4g} | {row.ratio:.3f} |" for row in rows]
    return "\n".join(lines) + "\n"
