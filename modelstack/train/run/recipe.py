"""What a training run is made of: its recipe, alone or under a plan.

A recipe leaves out what it has no opinion on. A plan (`modelstack plan`) decides model, steps, batch, learning
rate, schedule, context, precision and layout; a recipe that obeys one must be silent on these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.architecture.attention.compressed import IndexStage
from modelstack.architecture.config import ModelConfig
from modelstack.data.packing import Kind
from modelstack.decide.memory import Layout
from modelstack.decide.plan_file import Plan
from modelstack.errors import UserError
from modelstack.stability.anticipatory import AnticipatoryConfig
from modelstack.stability.guard import GuardConfig
from modelstack.tokenizer.training import TokenizerConfig
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.samples import SamplingConfig
from modelstack.train.schedules import ScheduleConfig, branch


class DataRecipe(BaseModel, frozen=True, extra="forbid"):
    """Text, and how it becomes batches."""

    text: tuple[str, ...] = ()
    """Files or folders (.jsonl, .jsonl.zst, .txt, .md); none: the corpus that ships with the package."""
    held_out: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the documents, chosen by a hash of their text, that is measured on and never trained on."""
    row_tokens: int | None = Field(default=None, ge=2)
    """Tokens of a row; 512 unless a plan has a context."""
    packing: Kind = "best_fit"
    window_rows: int = Field(default=256, ge=1)
    """Rows that are packed together."""
    weights: dict[str, float] | None = None
    """Share of the tokens for each source; none: each document once in an epoch."""
    source_field: str | None = None
    """Field of the records that names a document's source ("source"); none: its file is its source."""
    anneal_share: float | None = Field(default=None, gt=0, lt=1)
    """Of the steps, those at the end that have a mix of their own, rounded to whole steps."""
    anneal_weights: dict[str, float] | None = None
    """As `weights`, of that mix."""

    @model_validator(mode="after")
    def _anneals_with_weights(self) -> Self:
        if (self.anneal_share is None) != (self.anneal_weights is None):
            raise ValueError("anneal_share and anneal_weights go together: give both, or none")
        if self.anneal_weights is not None and self.weights is None:
            raise ValueError("anneal_weights without weights: name the shares of the time before them too")
        return self


class TokenizerRecipe(BaseModel, frozen=True, extra="forbid"):
    """A tokenizer that is there, or what to learn one with."""

    path: str | None = None
    """Folder of one; none: learnt from the run's training text."""
    learn: TokenizerConfig | None = None
    megabytes: float | None = Field(default=None, gt=0)
    """Learn from so much text, in equal parts from each file; none: from all."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.path and (self.learn or self.megabytes):
            raise ValueError("tokenizer.path names a finished one: leave tokenizer.learn and megabytes out")
        return self


class ModelRecipe(BaseModel, frozen=True, extra="forbid"):
    """A shape; the vocabulary is the tokenizer's."""

    preset: str
    """A published size ("nano-9m"), a config.json or a checkpoint folder, whose weights are not read."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of our own config to change ("num_hidden_layers", "z_loss_coef")."""


class ScheduleRecipe(BaseModel, frozen=True, extra="forbid"):
    """Warm-up, stable, decay; or another form."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int | None = Field(default=None, ge=1)
    """Of `wsd`; none: it stays stable to the end, for `branch`."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    final_factor: float = Field(default=0.0, ge=0, le=1)

    def over(self, n_steps: int) -> ScheduleConfig:
        """Return the schedule of so many steps.

        Raises:
            UserError: It does not fit into them.
        """
        values = self.model_dump()
        if self.kind == "cosine" or self.decay_steps:
            values["total_steps"] = n_steps
        try:
            return ScheduleConfig.model_validate(values)
        except ValueError as error:
            raise UserError(f"recipe schedule over {n_steps} steps: {error}") from error


class CheckpointRecipe(BaseModel, frozen=True, extra="forbid"):
    """When a run is saved."""

    every: int = Field(default=100, gt=0)
    """Steps."""
    keep: int = Field(default=3, ge=1)
    in_background: bool = True
    """Of a run over several processes: train on while a checkpoint is written."""
    memory_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints in memory, on top: a process that dies loses few steps. For runs on one machine;
    takes the memory of two of them."""


class EvaluationRecipe(BaseModel, frozen=True, extra="forbid"):
    """What is looked at along the way."""

    every: int = Field(default=100, gt=0)
    """Steps between measurements on held-out text; the last step is always measured."""
    max_megabytes: float = Field(default=0.5, gt=0)
    """Of held-out text along the way; at the end all of it counts."""
    baselines: bool = True
    """Fit compressors and n-gram models to the training text at the end, to compare with; minutes for 20 MB."""
    tensorboard: bool = False
    """Write TensorBoard's event files too, into `tensorboard/`; needs the package tensorboard."""


class ParallelRecipe(BaseModel, frozen=True, extra="forbid"):
    """How a run is spread over processes; `torchrun` starts them."""

    layout: Layout = Layout()
    pipeline_schedule: str = "1F1B"
    compile_blocks: bool = False
    reshard_after_forward: bool = True


class IndexerRecipe(BaseModel, frozen=True, extra="forbid"):
    """How a model with a lightning indexer (DeepSeek-V4) comes to sparse attention; `compressed.IndexStage`.

    The weight of the indexer's loss is `model.config.indexer_loss_coef`.
    """

    dense_steps: int = Field(default=0, ge=0)
    """First steps, in which every entry is attended to and the indexer is neither used nor trained."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps after those in which every entry is attended to and only the indexer is trained."""

    def stage(self, step: int) -> IndexStage:
        """Return what indexers do at a step, counted from 0."""
        if step < self.dense_steps:
            return "dense"
        return "warm_up" if step < self.dense_steps + self.warmup_steps else "sparse"


class BranchRecipe(BaseModel, frozen=True, extra="forbid"):
    """A decay that branches off another run's stable part; the rest of the recipe is that run's."""

    run: str
    """Its folder."""
    step: int = Field(ge=1)
    """Steps that it had taken: it has a checkpoint of them."""
    decay_steps: int = Field(ge=1)


PROMPTS = ("Once upon a time", "The capital of France is", "def main():")


class RunRecipe(BaseModel, frozen=True, extra="forbid"):
    """A run from scratch, or a branch of one."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    plan: str | None = None
    """`plan.json`, or its folder."""
    steps: int | None = Field(default=None, gt=0)
    rows: int | None = Field(default=None, gt=0)
    """Rows of a step, of all processes and micro-batches together."""
    micro_batches: int = Field(default=1, gt=0)
    """Passes whose gradients make a step."""
    precision: Literal["fp32", "bf16", "fp8"] | None = None
    """What is computed in; masters and moments are fp32. None: fp32, or the plan's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is one."""
    threads: int | None = Field(default=None, gt=0)
    """Of a process on a CPU; none: torch's own choice. Sums differ with it, so a resumed run keeps it."""
    max_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to it."""
    data: DataRecipe = DataRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleRecipe | None = None
    guard: GuardConfig = GuardConfig()
    checkpoints: CheckpointRecipe = CheckpointRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    samples: SamplingConfig = SamplingConfig(
        prompts=("Once upon a time", "The capital of France is", "def main():")
    )
    """Texts of the model at each measurement; no prompts: none. Not under tensor parallelism or a pipeline."""
    faults: tuple[dict[str, Any], ...] = ()
    """What is to go wrong, for drills: `{kind = "sigkill", step = 120, rank = 1}`; see `stability.faults`."""
    parallel: ParallelRecipe = ParallelRecipe()
    indexer: IndexerRecipe = IndexerRecipe()
    """Dense attention and the indexer's warm-up at the beginning; for models with an indexer."""
    branch: BranchRecipe | None = None
    anticipatory: AnticipatoryConfig | None = None
    """For models with experts: after a roll-back, experts are chosen some steps ahead for a while."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = [name for name in PLANNED if _at(self, name) is not None]
        if "layout" in self.parallel.model_fields_set:
            given.append("parallel.layout")
        if "lr" in self.optimizer.model_fields_set:
            given.append("optimizer.lr")
        if self.plan and given:
            raise ValueError(f"a plan decides {', '.join(given)}: leave out of the recipe what the plan says")
        missing = [name for name in ("steps", "rows", "model") if _at(self, name) is None]
        if not self.plan and missing:
            raise ValueError(f"{', '.join(missing)} must be given, or a plan that decides them")
        return self


PLANNED = ("steps", "rows", "precision", "model", "schedule", "data.row_tokens")
"""What a plan decides beside the learning rate and the layout."""


class Resolved(BaseModel, frozen=True):
    """A recipe with nothing open; stored with the run."""

    recipe: RunRecipe
    steps: int
    rows: int
    row_tokens: int
    precision: Literal["fp32", "bf16", "fp8"]
    model: ModelConfig
    """With the vocabulary of the recipe or plan; the tokenizer's takes its place."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    layout: Layout
    tokenizer: TokenizerConfig

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def micro_batches(self) -> int:
        """Passes of one process in a step."""
        return self.recipe.micro_batches

    @property
    def rows_per_batch(self) -> int:
        """Rows of one pass of one process.

        Raises:
            UserError: The rows do not divide.
        """
        parts = self.layout.data_ranks * self.micro_batches
        if self.rows % parts:
            raise UserError(
                f"rows = {self.rows} is no multiple of {self.layout.data_ranks} data ranks x "
                f"{self.micro_batches} micro_batches: every pass takes as many"
            )
        return self.rows // parts


def resolve(recipe: RunRecipe, plan: Plan | None = None) -> Resolved:
    """Return the recipe with a plan's decisions, and defaults for the rest.

    Args:
        recipe: As it was read.
        plan: What `recipe.plan` names, where it does.

    Raises:
        UserError: Schedule, rows or model do not fit.
    """
    resolved = _by_plan(recipe, plan) if plan else _alone(recipe)
    if recipe.branch:
        at, n_decay = recipe.branch.step, recipe.branch.decay_steps
        changes = {"steps": at + n_decay, "schedule": branch(resolved.schedule, at, n_decay)}
        resolved = resolved.model_copy(update=changes)
    _ = resolved.rows_per_batch  # says so before any work is done
    _check_indexer(resolved)
    return resolved


def _check_indexer(resolved: Resolved) -> None:
    asked, model = resolved.recipe.indexer, resolved.model
    if asked == IndexerRecipe():
        return
    if not model.has_indexer:
        raise UserError(
            f"indexer.dense_steps and indexer.warmup_steps are for models with a lightning indexer, "
            f"and this {model.model_type} has none: leave [indexer] out"
        )
    if asked.warmup_steps and not model.indexer_loss_coef:
        raise UserError(
            "indexer.warmup_steps trains the indexer alone and model.config.indexer_loss_coef is 0: "
            "give the loss a weight, or leave the warm-up out"
        )


def _alone(recipe: RunRecipe) -> Resolved:
    from modelstack.architecture.presets.find import find_config

    assert recipe.model and recipe.steps and recipe.rows  # the recipe's own check
    schedule = recipe.schedule or ScheduleRecipe()
    return Resolved(
        recipe=recipe,
        steps=recipe.steps,
        rows=recipe.rows,
        row_tokens=recipe.data.row_tokens or 512,
        precision=recipe.precision or "fp32",
        model=shaped(find_config(recipe.model.preset), recipe.model.config),
        optimizer=recipe.optimizer,
        schedule=schedule.over(recipe.steps),
        layout=recipe.parallel.layout,
        tokenizer=recipe.tokenizer.learn or TokenizerConfig(),
    )


def shaped(base: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return a config with keys changed; another depth goes with layers of the base's one kind.

    Raises:
        UserError: A key is unknown, the result cannot be, or the base's layers are of several kinds.
    """
    depth, filled = changes.get("num_hidden_layers"), dict(changes)
    if depth is None or depth == base.num_hidden_layers:
        return base.with_(**filled)
    for key in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        kinds = set(getattr(base, key))
        if key in changes or not kinds:
            continue
        if len(kinds) > 1:
            raise UserError(
                f"model.config.num_hidden_layers is {depth}, the preset's {key} has several kinds for its "
                f"{base.num_hidden_layers} layers: give model.config.{key} too"
            )
        filled[key] = (*kinds,) * depth
    return base.with_(**filled)


def _by_plan(recipe: RunRecipe, plan: Plan) -> Resolved:
    request, planned = plan.request, plan.schedule
    if request.precision not in ("fp32", "bf16", "fp8"):
        raise UserError(f"the plan computes in {request.precision!r}, which no trainer here does: fp32, bf16, fp8")
    learn = recipe.tokenizer.learn or TokenizerConfig(vocab_size=plan.model.config.vocab_size)
    if not recipe.tokenizer.path and learn.vocab_size != plan.model.config.vocab_size:
        raise UserError(
            f"tokenizer.learn.vocab_size is {learn.vocab_size}, the plan counts with "
            f"{plan.model.config.vocab_size}: leave it out, or plan with --vocab-size {learn.vocab_size}"
        )
    schedule = ScheduleRecipe(warmup_steps=planned.warmup_steps, decay_steps=planned.decay_steps or None)
    return Resolved(
        recipe=recipe,
        steps=planned.n_steps,
        rows=plan.sequences_per_batch,
        row_tokens=request.context,
        precision=request.precision,
        model=plan.model.config,
        optimizer=recipe.optimizer.model_copy(update={"lr": plan.learning_rate.value}),
        schedule=schedule.over(planned.n_steps),
        layout=plan.layout,
        tokenizer=learn,
    )


def _at(recipe: RunRecipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


def plan_of(recipe: RunRecipe, beside: Path) -> Plan | None:
    """Read the plan that a recipe names; a relative path is seen from the recipe's folder.

    Raises:
        UserError: It cannot be read, or was changed.
    """
    from modelstack.decide.plan_file import read_plan

    return read_plan(beside / recipe.plan) if recipe.plan else None


_FREE = ("evaluation", "samples", "checkpoints", "guard", "faults", "name", "plan", "branch")
FREE = {("recipe", name) for name in _FREE}
"""What may change between a stop and going on: it moves no weight of a sound run."""
_LAYOUT = ("parallel", "micro_batches", "threads", "device")
LAYOUT = {("layout",), *(("recipe", name) for name in _LAYOUT)}
"""What may change too, at the price of sums in another order: results agree to rounding, not bit for bit."""
