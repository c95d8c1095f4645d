"""Plan of a training run: request, decisions and costs.

The trainer follows the plan, and the report of a run compares its results with it. `plan.json` contains a SHA-256
of its content; a plan changed by hand is refused when read.

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
from modelstack.errors import UserError, reason_of
from modelstack.files import replacing

PLAN_FILE = "plan.json"
VERSION = 1
BUDGETS = ("budget_flops", "hours", "money", "quality_of")


class PlanRequest(BaseModel, frozen=True, extra="forbid"):
    """A request to the planner, with exactly one of the four budgets."""

    budget_flops: float | None = Field(default=None, gt=0)
    """FLOPs of training and of all served tokens."""
    hours: float | None = Field(default=None, gt=0)
    """Wall-clock hours on the given devices, training and serving together."""
    money: float | None = Field(default=None, gt=0)
    """US dollars for training and serving together."""
    quality_of: float | None = Field(default=None, gt=0)
    """Number of parameters of a compute-optimal model whose loss is to be reached at the lowest cost."""
    tokens_served: float = Field(default=0, ge=0)
    """Tokens over the model's lifetime, prompt and output together; 0: only training counts."""
    prompt_tokens: float = Field(default=1, ge=0)
    output_tokens: float = Field(default=1, ge=0)
    """Output tokens of a typical request; only the ratio to `prompt_tokens` matters."""
    device: str = "cpu-2-threads"
    serving_device: str | None = None
    n_devices: int = Field(default=1, ge=1)
    precision: str = "bf16"
    utilisation: Utilisation = Utilisation()
    context: int = Field(default=2048, ge=1)
    preset: str | None = None
    """A published size, a config.json or a checkpoint folder; None: a dense shape is chosen."""
    vocab_size: int = Field(default=16384, gt=0)
    """Vocabulary size of a chosen shape."""
    layout: Layout | None = None
    """Parallelism layout; None: FSDP over all devices with the largest micro-batch that fits."""
    law: str = "besiroglu"

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ValueError(f"exactly one of {', '.join(BUDGETS)} must be given, not {named}")
        if self.tokens_served and not self.prompt_tokens + self.output_tokens:
            raise ValueError("prompt_tokens and output_tokens are both 0: tokens_served cannot be split")
        if self.layout and self.layout.n_devices != self.n_devices:
            raise ValueError(f"layout takes {self.layout.n_devices} devices, n_devices is {self.n_devices}")
        return self


class Rule(BaseModel, frozen=True):
    """A number with its rule and the source of the rule."""

    value: float
    rule: str
    source: str


class Schedule(BaseModel, frozen=True):
    """Learning-rate schedule: warm-up, stable, decay."""

    kind: Literal["wsd"] = "wsd"
    n_steps: int
    warmup_steps: int
    decay_steps: int


class ModelPlan(BaseModel, frozen=True):
    """The planned model."""

    name: str
    config: ModelConfig
    n_parameters: int
    n_active: int
    """Parameters used for one token; the N of costs and laws."""
    n_non_embedding: int
    embedding_share: float


class Expectation(BaseModel, frozen=True):
    """Predictions of one law for the plan."""

    law: ScalingLaw
    loss: float
    """Nats per token; for a mixture, that of a dense model with its active parameters."""
    best_n_parameters: float
    """Optimal size under this law, for the same budget or for its own loss of `quality_of`."""
    best_n_tokens: float
    best_loss: float


class Alternative(BaseModel, frozen=True):
    """An alternative, evaluated under the plan's law."""

    name: str
    n_parameters: float
    n_tokens: float
    loss: float
    training_flops: float
    total_cost: float
    """Total cost in `Plan.cost_unit`."""


class Plan(BaseModel, frozen=True):
    """A planned run."""

    version: int = VERSION
    request: PlanRequest
    model: ModelPlan
    n_tokens: int
    """Tokens in whole batches; costs and losses refer to the budget's exact number, up to half a batch off."""
    batch_tokens: Rule
    sequences_per_batch: int
    learning_rate: Rule
    schedule: Schedule
    layout: Layout
    memory: Memory
    fits: bool
    """Whether the run fits in 90 % of the device's memory."""
    device: Device
    training_flops: float
    """Training compute, 6 N D."""
    exact_training_flops: float
    """Training FLOPs with attention at the plan's context and without table look-ups."""
    training: Bill
    serving: tuple[Bill, ...]
    """Costs of prompts and of outputs; empty if nothing is served."""
    cost_unit: str
    total_cost: float
    expected: tuple[Expectation, ...]
    """Predictions by law, the plan's own law first."""
    alternatives: tuple[Alternative, ...]
    elsewhere: tuple[Bill, ...]
    """Costs of the same training on the same number of each other device type with this precision."""
    mixture: MixtureComparison | None
    cache_bytes: dict[int, int]
    """Bytes of one sequence's cache in bf16, by tokens."""
    decode_ceiling: dict[int, float]
    """Highest utilisation that the serving device's memory allows, by number of sequences decoded together."""
    warnings: tuple[str, ...]
    fingerprint: str = ""
    """SHA-256 of all other fields."""

    def sealed(self) -> Plan:
        """Return the plan with its fingerprint."""
        return self.model_copy(update={"fingerprint": _fingerprint(json.loads(self.model_dump_json()))})

    @property
    def loss(self) -> float:
        """Loss predicted by the plan's own law, nats per token."""
        return self.expected[0].loss


def request_of(**values: Any) -> PlanRequest:
    """Return the validated request of `values`.

    Raises:
        UserError: A value is invalid, or values contradict each other.
    """
    try:
        return PlanRequest.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        given = f"{key}: {reason_of(fault)} (given: {fault['input']!r})" if key else reason_of(fault)
        raise UserError(f"plan: {given}") from error


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write `plan.json` into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PLAN_FILE) as temporary:
        temporary.write_text(plan.sealed().model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder / PLAN_FILE


def read_plan(path: Path) -> Plan:
    """Return the plan of a file, or of the folder that contains it.

    Raises:
        UserError: The file is missing, is not a plan, has another version, or was changed after planning.
    """
    file = path / PLAN_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"plan {file} is missing; `modelstack plan --out FOLDER` writes one")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("version") != VERSION:
            raise UserError(f"{file} is a plan of version {values.get('version')!r}, not {VERSION}; plan again")
        plan = Plan.model_validate(values)
    except (json.JSONDecodeError, ValidationError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a plan: {str(error).splitlines()[0]}") from error
    if plan.fingerprint != _fingerprint(values):
        raise UserError(f"{file} was changed after planning: its fingerprint does not match; plan again")
    return plan


def _fingerprint(values: dict[str, Any]) -> str:
    content = {key: value for key, value in values.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
