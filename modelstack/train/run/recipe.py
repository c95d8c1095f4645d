"""Recipe of a training run, with or without a plan.

Settings that a recipe omits get defaults. A plan (`modelstack plan`) decides model, steps, batch, learning rate,
schedule, context, precision and layout; a recipe with a plan must omit these.
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
    """Text of a run, and how it is packed into batches."""

    text: tuple[str, ...] = ()
    """Files or folders (.jsonl, .jsonl.zst, .txt, .md); empty: the corpus that ships with the package."""
    held_out: float = Field(default=0.02, gt=0, lt=0.5)
    """Fraction of documents, selected by a hash of their text, used for evaluation only."""
    row_tokens: int | None = Field(default=None, ge=2)
    """Tokens per row; None: the plan's context, or 512 without a plan."""
    packing: Kind = "best_fit"
    """Documents fitted into rows, or cut at the ends of rows."""
    window_rows: int = Field(default=256, ge=1)
    """Number of rows that are packed together."""
    weights: dict[str, float] | None = None
    """Fraction of the tokens from each source; None: each document once per epoch."""
    source_field: str | None = None
    """Field of the records that names a document's source, for example "source"; None: the file is the source."""
    anneal_share: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the steps, at the end of the run, that use `anneal_weights`; rounded to whole steps."""
    anneal_weights: dict[str, float] | None = None
    """Fraction of the tokens from each source in the annealing steps."""

    @model_validator(mode="after")
    def _anneals_with_weights(self) -> Self:
        if (self.anneal_share is None) != (self.anneal_weights is None):
            raise ValueError("anneal_share and anneal_weights must be set together; set both or neither")
        if self.anneal_weights is not None and self.weights is None:
            raise ValueError("anneal_weights requires weights for the steps before; set weights too")
        return self


class TokenizerRecipe(BaseModel, frozen=True, extra="forbid"):
    """An existing tokenizer, or settings to train one."""

    path: str | None = None
    """Folder of an existing tokenizer; None: train one on the run's training text."""
    learn: TokenizerConfig | None = None
    megabytes: float | None = Field(default=None, gt=0)
    """Megabytes of text to train the tokenizer on, in equal parts from each file; None: all text."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.path and (self.learn or self.megabytes):
            raise ValueError(
                "tokenizer.path names an existing tokenizer; omit tokenizer.learn and tokenizer.megabytes"
            )
        return self


class ModelRecipe(BaseModel, frozen=True, extra="forbid"):
    """Architecture of the model; the vocabulary is that of the tokenizer."""

    preset: str
    """A published size ("nano-9m"), a config.json or a checkpoint folder, whose weights are not read."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of `ModelConfig` to change ("num_hidden_layers", "z_loss_coef")."""


class ScheduleRecipe(BaseModel, frozen=True, extra="forbid"):
    """Learning-rate schedule: warm-up, stable, decay; or another form."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, stable, decay; or another form."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps of the decay in `wsd`; None: stable to the end, for `branch`."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """Form of the decay in `wsd`."""
    final_factor: float = Field(default=0.0, ge=0, le=1)
    """Factor on the learning rate at the end."""

    def over(self, n_steps: int) -> ScheduleConfig:
        """Return the schedule over `n_steps` steps.

        Raises:
            UserError: It does not fit into the steps.
        """
        values = self.model_dump()
        if self.kind == "cosine" or self.decay_steps:
            values["total_steps"] = n_steps
        try:
            return ScheduleConfig.model_validate(values)
        except ValueError as error:
            raise UserError(f"recipe schedule over {n_steps} steps: {error}") from error


class CheckpointRecipe(BaseModel, frozen=True, extra="forbid"):
    """Intervals and number of checkpoints."""

    every: int = Field(default=100, gt=0)
    """Steps between checkpoints."""
    keep: int = Field(default=3, ge=1)
    """Number of newest checkpoints that are kept."""
    in_background: bool = True
    """Whether a run over several processes continues training while a checkpoint is written."""
    memory_every: int | None = Field(default=None, gt=0)
    """Steps between additional checkpoints in memory, so that a dead process loses few steps. For runs on one
    machine; takes the memory of two checkpoints.
    """


class EvaluationRecipe(BaseModel, frozen=True, extra="forbid"):
    """Evaluation during and after training."""

    every: int = Field(default=100, gt=0)
    """Steps between evaluations on held-out text; the last step is always evaluated."""
    max_megabytes: float = Field(default=0.5, gt=0)
    """Megabytes of held-out text used during training; at the end all of it is used."""
    baselines: bool = True
    """Whether to fit compressors and n-gram models to the training text at the end; takes minutes for 20 MB."""
    tensorboard: bool = False
    """Whether to write TensorBoard's event files to `tensorboard/`; requires the package tensorboard."""


class ParallelRecipe(BaseModel, frozen=True, extra="forbid"):
    """Distribution of a run over processes, which `torchrun` starts."""

    layout: Layout = Layout()
    pipeline_schedule: str = "1F1B"
    """Schedule of the pipeline, by torch's name."""
    compile_blocks: bool = False
    """Whether `torch.compile` compiles each layer."""
    reshard_after_forward: bool = True
    """Whether FSDP frees gathered weights after the forward pass."""


class IndexerRecipe(BaseModel, frozen=True, extra="forbid"):
    """Stages of indexer training for a model with a lightning indexer (DeepSeek-V4); see `compressed.IndexStage`.

    The coefficient of the indexer's loss is `model.config.indexer_loss_coef`.
    """

    dense_steps: int = Field(default=0, ge=0)
    """Number of first steps with dense attention, in which the indexer is neither used nor trained."""
    warmup_steps: int = Field(default=0, ge=0)
    """Number of steps after those with dense attention, in which only the indexer is trained."""

    def stage(self, step: int) -> IndexStage:
        """Return the stage of indexers at a step, counted from 0."""
        if step < self.dense_steps:
            return "dense"
        return "warm_up" if step < self.dense_steps + self.warmup_steps else "sparse"


class BranchRecipe(BaseModel, frozen=True, extra="forbid"):
    """A decay that branches from another run's stable part; all other settings are those of that run."""

    run: str
    """Folder of the other run."""
    step: int = Field(ge=1)
    """Number of steps of the other run at the branch; it must have a checkpoint of this step."""
    decay_steps: int = Field(ge=1)
    """Steps of the decay."""


PROMPTS = ("Once upon a time", "The capital of France is", "def main():")
"""Default prompts for samples."""


class RunRecipe(BaseModel, frozen=True, extra="forbid"):
    """A run from scratch, or a branch of another run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    seed: int = 0
    """Seed of everything random in the run."""
    plan: str | None = None
    """Path of `plan.json`, or of its folder."""
    steps: int | None = Field(default=None, gt=0)
    """Number of optimizer steps."""
    rows: int | None = Field(default=None, gt=0)
    """Rows per step, over all processes and micro-batches."""
    micro_batches: int = Field(default=1, gt=0)
    """Passes per step, whose gradients are added."""
    precision: Literal["fp32", "bf16", "fp8"] | None = None
    """Precision of the computation; masters and moments are fp32. None: the plan's, or fp32 without a plan."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; `auto`: CUDA if available."""
    threads: int | None = Field(default=None, gt=0)
    """Number of threads of a process on a CPU; None: torch's default. Sums depend on it, so a resumed run keeps
    it.
    """
    max_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm; larger gradients are scaled down."""
    data: DataRecipe = DataRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleRecipe | None = None
    guard: GuardConfig = GuardConfig()
    checkpoints: CheckpointRecipe = CheckpointRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    samples: SamplingConfig = SamplingConfig(prompts=PROMPTS)
    """Prompts sampled at each evaluation; without prompts, no samples. Disabled under tensor parallelism or a
    pipeline.
    """
    faults: tuple[dict[str, Any], ...] = ()
    """Faults to inject, for drills: `{kind = "sigkill", step = 120, rank = 1}`; see `stability.faults`."""
    parallel: ParallelRecipe = ParallelRecipe()
    indexer: IndexerRecipe = IndexerRecipe()
    """Dense attention and the indexer's warm-up at the beginning; for models with an indexer."""
    branch: BranchRecipe | None = None
    anticipatory: AnticipatoryConfig | None = None
    """Routing of experts some steps ahead for a while after a roll-back; for models with experts."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = [name for name in PLANNED if _at(self, name) is not None]
        if "layout" in self.parallel.model_fields_set:
            given.append("parallel.layout")
        if "lr" in self.optimizer.model_fields_set:
            given.append("optimizer.lr")
        if self.plan and given:
            raise ValueError(f"a plan decides {', '.join(given)}; omit these keys from the recipe")
        missing = [name for name in ("steps", "rows", "model") if _at(self, name) is None]
        if not self.plan and missing:
            raise ValueError(f"{', '.join(missing)} must be set, or a plan that decides them")
        return self


PLANNED = ("steps", "rows", "precision", "model", "schedule", "data.row_tokens")
"""Settings that a plan decides, in addition to the learning rate and the layout."""


class Resolved(BaseModel, frozen=True):
    """A complete recipe without open settings; stored with the run."""

    recipe: RunRecipe
    steps: int
    rows: int
    row_tokens: int
    precision: Literal["fp32", "bf16", "fp8"]
    model: ModelConfig
    """Model config with the vocabulary of the recipe or plan; the tokenizer's vocabulary replaces it."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    layout: Layout
    tokenizer: TokenizerConfig

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def micro_batches(self) -> int:
        """Passes of one process per step."""
        return self.recipe.micro_batches

    @property
    def rows_per_batch(self) -> int:
        """Rows of one pass of one process.

        Raises:
            UserError: The rows are not divisible.
        """
        parts = self.layout.data_ranks * self.micro_batches
        if self.rows % parts:
            raise UserError(
                f"rows = {self.rows} is not a multiple of {self.layout.data_ranks} data ranks x "
                f"{self.micro_batches} micro_batches; every pass needs the same number of rows"
            )
        return self.rows // parts


def resolve(recipe: RunRecipe, plan: Plan | None = None) -> Resolved:
    """Return the recipe with a plan's decisions and defaults for the rest.

    Args:
        recipe: The recipe as read.
        plan: The plan that `recipe.plan` names; None: the recipe names none.

    Raises:
        UserError: Schedule, rows or model do not match.
    """
    resolved = _with_plan(recipe, plan) if plan else _without_plan(recipe)
    if recipe.branch:
        at, n_decay = recipe.branch.step, recipe.branch.decay_steps
        changes = {"steps": at + n_decay, "schedule": branch(resolved.schedule, at, n_decay)}
        resolved = resolved.model_copy(update=changes)
    _ = resolved.rows_per_batch  # raises before any work is done
    _check_indexer(resolved)
    return resolved


def _check_indexer(resolved: Resolved) -> None:
    asked, model = resolved.recipe.indexer, resolved.model
    if asked == IndexerRecipe():
        return
    if not model.has_indexer:
        raise UserError(
            f"indexer.dense_steps and indexer.warmup_steps are for models with a lightning indexer, "
            f"but this {model.model_type} has none; omit [indexer]"
        )
    if asked.warmup_steps and not model.indexer_loss_coef:
        raise UserError(
            "indexer.warmup_steps trains only the indexer, but model.config.indexer_loss_coef is 0; "
            "set the coefficient, or omit the warm-up"
        )


def _without_plan(recipe: RunRecipe) -> Resolved:
    from modelstack.architecture.presets.find import find_config

    assert recipe.model and recipe.steps and recipe.rows  # guaranteed by the recipe's validation
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
    """Return a config with changed keys; another depth requires a base whose layers all have the same type.

    Raises:
        UserError: A key is unknown, the resulting config is invalid, or the base's layers have several types.
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
                f"model.config.num_hidden_layers is {depth}, but the preset's {key} has several kinds for its "
                f"{base.num_hidden_layers} layers; set model.config.{key} too"
            )
        filled[key] = (*kinds,) * depth
    return base.with_(**filled)


def _with_plan(recipe: RunRecipe, plan: Plan) -> Resolved:
    request, planned = plan.request, plan.schedule
    if request.precision not in ("fp32", "bf16", "fp8"):
        raise UserError(f"the plan's precision {request.precision!r} is not supported; use fp32, bf16 or fp8")
    learn = recipe.tokenizer.learn or TokenizerConfig(vocab_size=plan.model.config.vocab_size)
    if not recipe.tokenizer.path and learn.vocab_size != plan.model.config.vocab_size:
        raise UserError(
            f"tokenizer.learn.vocab_size is {learn.vocab_size}, but the plan assumes "
            f"{plan.model.config.vocab_size}; omit it, or plan with --vocab-size {learn.vocab_size}"
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
    """Read the plan that a recipe names; a relative path is relative to the recipe's folder.

    Raises:
        UserError: The plan cannot be read, or was changed.
    """
    from modelstack.decide.plan_file import read_plan

    return read_plan(beside / recipe.plan) if recipe.plan else None


_FREE = ("evaluation", "samples", "checkpoints", "guard", "faults", "name", "plan", "branch")
FREE = {("recipe", name) for name in _FREE}
"""Settings that may change when a run is resumed: they do not affect the weights of a sound run."""
_LAYOUT = ("parallel", "micro_batches", "threads", "device")
LAYOUT = {("layout",), *(("recipe", name) for name in _LAYOUT)}
"""Settings that may also change but change the order of sums: results then agree up to rounding, not bit for bit.
"""
