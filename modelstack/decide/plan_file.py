"""The plan: what was asked, what was decided, what it will cost. The trainer obeys it, a run's report compares.

`plan.json` carries a SHA-256 of its content: a plan changed by hand is refused on reading.

Letters: N parameters, D tokens.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from modelstack.architecture.config import ModelConfig
from modelstack.decide.budget import Bill, MixtureComparison, Utilisation
from modelstack.decide.devices import Device
from modelstack.decide.memory import Layout, Memory
from modelstack.decide.scaling_laws import ScalingLaw
from modelstack.errors import UserError
from modelstack.files import replacing

PLAN_FILE = "plan.json"
VERSION = 1
BUDGETS = ("budget_flops", "hours", "money", "quality_of")


class PlanRequest(BaseModel, frozen=True, extra="forbid"):
    """What is asked of the planner; exactly one of the four budgets."""

    budget_flops: float | None = Field(default=None, gt=0)
    """FLOPs of training and of all tokens served."""
    hours: float | None = Field(default=None, gt=0)
    """Hours on the clock of the devices given, training and serving together."""
    money: float | None = Field(default=None, gt=0)
    """Dollars for training and serving together."""
    quality_of: float | None = Field(default=None, gt=0)
    """The loss that a compute-optimal model of so many parameters has, at the least cost."""
    tokens_served: float = Field(default=0, ge=0)
    """Over the model's life, prompt and output together; 0: training alone counts."""
    prompt_tokens: float = Field(default=1, ge=0)
    output_tokens: float = Field(default=1, ge=0)
    """Of a usual request: only the ratio to `prompt_tokens` counts."""
    device: str = "cpu-2-threads"
    serving_device: str | None = None
    n_devices: int = Field(default=1, ge=1)
    precision: str = "bf16"
    utilisation: Utilisation = Utilisation()
    context: int = Field(default=2048, ge=1)
    preset: str | None = None
    """A published size, a config.json or a checkpoint folder; None: a dense shape is chosen."""
    vocab_size: int = Field(default=16384, gt=0)
    """Of a shape that is chosen."""
    layout: Layout | None = None
    """None: FSDP over all devices, with the largest micro-batch that fits."""
    law: str = "besiroglu"

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(BUDGETS)} must be given, not {given or 'none'}")
        if self.tokens_served and not self.prompt_tokens + self.output_tokens:
            raise ValueError("prompt_tokens and output_tokens are both 0: tokens_served cannot be split")
        if self.layout and self.layout.n_devices != self.n_devices:
            raise ValueError(f"layout takes {self.layout.n_devices} devices, n_devices is {self.n_devices}")
        return self


class Rule(BaseModel, frozen=True):
    """A number, the rule that gave it, and who found the rule."""

    value: float
    rule: str
    source: str


class Schedule(BaseModel, frozen=True):
    """Warm-up, stable, decay."""

    kind: Literal["wsd"] = "wsd"
    n_steps: int
    warmup_steps: int
    decay_steps: int


class ModelPlan(BaseModel, frozen=True):
    """The model."""

    name: str
    config: ModelConfig
    n_parameters: int
    n_active: int
    """A token's pass reads these; the N of costs and laws."""
    n_non_embedding: int
    embedding_share: float


class Expectation(BaseModel, frozen=True):
    """What one law says of the plan."""

    law: ScalingLaw
    loss: float
    """Nats per token; of a mixture as if dense of its active parameters."""
    best_n_parameters: float
    """What this law would rather train with the same budget, or for its own loss of `quality_of`."""
    best_n_tokens: float
    best_loss: float


class Alternative(BaseModel, frozen=True):
    """Another choice, under the plan's own law."""

    name: str
    n_parameters: float
    n_tokens: float
    loss: float
    training_flops: float
    total_cost: float
    """In `Plan.cost_unit`."""


class Plan(BaseModel, frozen=True):
    """A decided run."""

    version: int = VERSION
    request: PlanRequest
    model: ModelPlan
    n_tokens: int
    """Whole batches; bills and losses are of what the budget buys, up to half a batch apart."""
    batch_tokens: Rule
    sequences_per_batch: int
    learning_rate: Rule
    schedule: Schedule
    layout: Layout
    memory: Memory
    fits: bool
    """In 90 % of the device's memory."""
    device: Device
    training_flops: float
    """6 N D."""
    exact_training_flops: float
    """With attention at the plan's context, and without what is only looked up."""
    training: Bill
    serving: tuple[Bill, ...]
    """Prompts, then outputs; empty when nothing is served."""
    cost_unit: str
    total_cost: float
    expected: tuple[Expectation, ...]
    """The plan's own law first."""
    alternatives: tuple[Alternative, ...]
    elsewhere: tuple[Bill, ...]
    """The same training on as many of each other kind of device that knows the precision."""
    mixture: MixtureComparison | None
    cache_bytes: dict[int, int]
    """Of one sequence in bf16, by its tokens."""
    decode_ceiling: dict[int, float]
    """Utilisation that the serving device's memory allows, by sequences decoded together."""
    warnings: tuple[str, ...]
    fingerprint: str = ""
    """SHA-256 of all the rest."""

    def sealed(self) -> Plan:
        """Return the plan with its fingerprint."""
        return self.model_copy(update={"fingerprint": _fingerprint(json.loads(self.model_dump_json()))})

    @property
    def loss(self) -> float:
        """Return what the plan's own law expects."""
        return self.expected[0].loss


def request_of(**values: Any) -> PlanRequest:
    """Return the checked request of `values`.

    Raises:
        UserError: A value is not allowed, or values do not go together.
    """
    try:
        return PlanRequest.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        given = f"{key}: {fault['msg']} (given: {fault['input']!r})" if key else fault["msg"]
        raise UserError(f"plan: {given}") from error


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write `plan.json` into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PLAN_FILE) as temporary:
        temporary.write_text(plan.sealed().model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder / PLAN_FILE


def read_plan(path: Path) -> Plan:
    """Return the plan of a file, or of the folder that holds it.

    Raises:
        UserError: It is no plan, of another version, or was changed since the planner wrote it.
    """
    file = path / PLAN_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("version") != VERSION:
            raise UserError(f"{file} is a plan of version {values.get('version')!r}, not {VERSION}; plan anew")
        plan = Plan.model_validate(values)
    except (json.JSONDecodeError, ValidationError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is no plan: {str(error).splitlines()[0]}") from error
    if plan.fingerprint != _fingerprint(values):
        raise UserError(f"{file} was changed after planning: its fingerprint does not fit; plan anew")
    return plan


def _fingerprint(values: dict[str, Any]) -> str:
    content = {key: value for key, value in values.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
