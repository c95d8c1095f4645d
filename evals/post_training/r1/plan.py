"""All sizes of a run in one frozen table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """Sizes of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int
    width: int
    feed_forward: int
    heads: int = 4


class R1Plan(BaseModel):
    """Sizes of a run; frozen, because results are stored under its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    teacher: Shape = Shape(layers=3, width=128, feed_forward=512)
    student: Shape = Shape(layers=2, width=64, feed_forward=256)
    initializer_range: float = 0.09
    """1 / sqrt(width); with 0.02 a model of this width stays at its first plateau more than three times as
    long."""
    n_documents: int = 16_000
    base_steps: int = 500
    """Addition is learned suddenly, and late for some seeds: with 320 steps, one base of three had not learned
    it."""
    student_base_steps: int = 500
    base_rows: int = 12
    row_tokens: int = 96
    n_cold: int = 400
    """Number of cold-start examples."""
    cold_steps: int = 200
    n_tasks: int = 2_000
    """Number of tasks for reinforcement; a part of them is used for rejection sampling."""
    rl_steps: int = 80
    rl_prompts: int = 8
    group: int = 8
    n_sampled_tasks: int = 600
    replies_per_task: int = 4
    sft_steps: int = 200
    """Training steps of a new base, and of students, on the kept replies."""
    distil_steps: int = 100
    rows: int = 16
    max_tokens: int = 40
    n_held_back: int = 200
    budgets: tuple[int, ...] = (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 24)
    """Budgets in thinking tokens; a digit and its running sum take 2, a problem of nine digits needs 18."""
    n_replies: int = 16
    """Sampled replies per held-back problem, for best of n and votes."""
    temperature: float = 1.0
