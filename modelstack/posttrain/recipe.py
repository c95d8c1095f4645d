"""Recipe keys shared by all post-training."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from modelstack.errors import UserError
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.stages.record import Origin, canonical
from modelstack.run_folder import Places
from modelstack.stability.guard import GuardConfig
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.run.recipe import CheckpointRecipe
from modelstack.train.schedules import ScheduleConfig


class TrainingFile(BaseModel, frozen=True, extra="forbid"):
    """File of training examples."""

    path: str
    """Path of the file."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the training tokens. Either every file has one, or no file has one and each example occurs once an
    epoch.
    """


def _as_table(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class TuningFiles(BaseModel, frozen=True, extra="forbid"):
    """Training files and held-back files."""

    training: tuple[Annotated[TrainingFile, BeforeValidator(_as_table)], ...] = Field(min_length=1)
    """Paths, or tables `{path = "...", share = 0.3}`."""
    validation: tuple[str, ...] = ()
    """Files for measurements before and after the training."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        shares = [file.share for file in self.training]
        given = [share for share in shares if share is not None]
        if given and (len(given) < len(shares) or abs(sum(given) - 1) > 1e-6):
            raise ValueError(
                f"shares of the training files are {shares}: give every file one, adding up to 1, or none"
            )
        paths = [*(file.path for file in self.training), *self.validation]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"{twice[0]!r} is named twice among training and validation files")
        return self


class TuningOptimizer(OptimizerConfig):
    """Optimizer of post-training, with a rate for adapters; training all weights needs about a tenth of it."""

    name: Literal["muon", "adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)


class TuningSchedule(BaseModel, frozen=True, extra="forbid"):
    """Learning-rate schedule in shares of the run, because the number of steps follows from the data."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """Form of the schedule."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the run in which the learning rate rises."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the run in which `wsd` decays."""
    final_factor: float = Field(default=0.1, ge=0, le=1)
    """Factor on the learning rate at the end."""

    def over(self, n_steps: int) -> ScheduleConfig:
        """Return the schedule for a run of `n_steps` steps.

        Raises:
            UserError: Warm-up and decay together are longer than the run.
        """
        n_warmup = min(math.ceil(self.warmup * n_steps), n_steps - 1)
        values: dict[str, Any] = {"kind": self.kind, "warmup_steps": n_warmup}
        if self.kind != "constant":
            values |= {"total_steps": n_steps, "final_factor": self.final_factor}
        if self.kind == "wsd":
            values["decay_steps"] = max(1, round(self.decay * n_steps))
        try:
            return ScheduleConfig.model_validate(values)
        except ValueError as error:
            raise UserError(f"recipe schedule over {n_steps} steps: {error}") from error


class TuningRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe keys of every post-training: model, data, length, optimizer and checkpoints."""

    free: ClassVar[frozenset[str]] = frozenset(
        {"base", "name", "weights", "minutes", "max_validation", "checkpoints", "guard", "faults"}
    )
    """Keys that may change on resume: the base is identified by its hash, the others change no weight."""
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    base: str
    """A GGUF file, a checkpoint folder, the name of a model (`agentkit models list`), or the folder of a stage,
    whose model or adapter is trained further.
    """
    weights: str | None = None
    """Base weights of a stage that is an adapter; None: the path recorded by its run."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""
    data: TuningFiles
    train: Literal["lora", "full"] = "lora"
    """Trained weights: an adapter, or all weights."""
    lora: LoraConfig | None = None
    """Form of the adapter; None: the form of the continued adapter, or the defaults for a new one."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training files."""
    steps: int | None = Field(default=None, gt=0)
    """Number of optimizer steps, instead of epochs."""
    minutes: float | None = Field(default=None, gt=0)
    """Limit of the training time in minutes. The schedule follows the clock when the clock is ahead of the steps.

    A run with a limit depends on the speed of the machine and cannot be repeated bit for bit.
    """
    rows: int = Field(default=4, gt=0)
    """Rows of an optimizer step."""
    micro_batches: int = Field(default=4, gt=0)
    """Micro-batches of an optimizer step."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number type of the computation; adapters, masters and moments are fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; `auto`: CUDA if available."""
    threads: int | None = Field(default=None, gt=0)
    """Number of CPU threads; None: torch's choice. Sums depend on it, so a change on resume is reported."""
    max_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm; larger gradients are scaled down."""
    optimizer: TuningOptimizer = TuningOptimizer()
    schedule: TuningSchedule = TuningSchedule()
    guard: GuardConfig = GuardConfig()
    checkpoints: CheckpointRecipe = CheckpointRecipe(every=20, keep=2)
    faults: tuple[dict[str, Any], ...] = ()
    """Faults to inject, for drills; see `stability.faults`."""

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.train == "full" and self.lora is not None:
            raise ValueError("train = 'full' moves all weights: leave the table lora out")
        if self.train == "lora" and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer.name = 'muon' is for train = 'full': Muon updates whole matrices, not adapters"
            )
        if "epochs" in self.model_fields_set and self.steps:
            raise ValueError("epochs and steps both set the length of the run: give one of them")
        if self.rows % self.micro_batches:
            raise ValueError(f"rows = {self.rows} is not a multiple of micro_batches = {self.micro_batches}")
        return self


LAYOUT = {("recipe", name) for name in ("micro_batches", "threads", "device", "pool")}
"""Keys that may change on resume but change the order of sums."""
Recipe = TypeVar("Recipe", bound=TuningRecipe)


class TuningResolved(BaseModel, Generic[Recipe], frozen=True):
    """Recipe with every default and hash filled in; it stays the same until the run ends."""

    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    """Fields that hold a path; a hash identifies its content."""
    recipe: Recipe
    weights: str
    """Path of the weights when the run began."""
    base_sha256: str
    """Hash of the base weights: those that stay frozen, or those that full training starts from."""
    parent: Origin
    """Base or stage that is trained further."""
    lora: LoraConfig | None
    """Form of the adapter; None: all weights are trained."""
    data_sha256: tuple[str, ...]
    """Hashes of the training files."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """Stages and bases that the new stage descends from."""
        return (self.parent,)

    @property
    def free(self) -> Places:
        """Keys that may change on resume."""
        return {*((name,) for name in self.places), *(("recipe", name) for name in self.recipe.free)}

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with file names instead of paths, so that a card does not show the folders of a machine."""
        content = self.recipe.model_dump(mode="json", exclude={"faults"})
        content["base"] = Path(self.recipe.base).name
        content["weights"] = None if self.recipe.weights is None else Path(self.recipe.weights).name
        for file in content["data"]["training"]:
            file["path"] = Path(file["path"]).name
        content["data"]["validation"] = [Path(path).name for path in self.recipe.data.validation]
        return content | {"lora": None if self.lora is None else self.lora.model_dump(mode="json")}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all fields, with file names instead of paths."""
        content = self.model_dump(mode="json", exclude=set(self.places)) | {"recipe": self.portable}
        return hashlib.sha256(canonical(content).encode()).hexdigest()
