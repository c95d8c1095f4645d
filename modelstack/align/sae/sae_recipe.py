"""Recipe of a sparse autoencoder."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.align.sae.hook_point import HookPoint, Point
from modelstack.posttrain.stages.record import canonical
from modelstack.run_folder import Places
from modelstack.train.run.recipe import CheckpointRecipe
from modelstack.train.schedules import ScheduleConfig

Kind = Literal["topk", "batch_topk", "jumprelu", "matryoshka"]
RATE_AT_2_14 = 2e-4
"""Learning rate for 2^14 latents; it falls with the root of their number (2406.04093, dictionary_learning)."""


class SaeForm(BaseModel, frozen=True, extra="forbid"):
    """Architecture and loss of an autoencoder."""

    kind: Kind = "batch_topk"
    """Choice of the active latents: by token, by batch, by learnt thresholds, or by batch with nested widths."""
    latents: int = Field(gt=0)
    """Number of latents."""
    k: int = Field(default=32, gt=0)
    """Active latents of a token; on average but for `topk`."""
    widths: tuple[int, ...] = ()
    """Nested widths of `matryoshka`, rising: the latents below each must rebuild the state alone."""
    skip: bool = False
    """Whether a transcoder passes its input on through a matrix, too."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Number type of the scores that choose latents; their values are float32. `jumprelu` has float32 only."""
    dead_after: int = Field(default=500_000, gt=0)
    """Tokens without firing after which a latent is dead, and rebuilds what the others leave over."""
    dead_weight: float = Field(default=1 / 32, ge=0)
    """Weight of the loss of dead latents."""
    threshold_rate: float = Field(default=0.05, gt=0, le=1)
    """Rate at which the threshold of `batch_topk` and `matryoshka` follows the lowest active value."""
    kernel: float = Field(default=0.5, gt=0)
    """Width of the kernel that gives thresholds of `jumprelu` a gradient."""
    active_weight: float = Field(default=1.0, gt=0)
    """Weight of the loss that holds the active latents of `jumprelu` at `k`."""

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.k > self.latents:
            raise ValueError(f"k = {self.k} of {self.latents} latents: at most all can be active")
        if bool(self.widths) != (self.kind == "matryoshka"):
            raise ValueError(
                f"widths = {list(self.widths)} with kind = {self.kind!r}: matryoshka has some, others none"
            )
        if list(self.widths) != sorted({width for width in self.widths if 0 < width < self.latents}):
            raise ValueError(f"widths = {list(self.widths)} must rise, between 0 and latents = {self.latents}")
        if self.kind == "jumprelu" and self.precision != "fp32":
            raise ValueError("kind = 'jumprelu' has gradients of all scores: precision must be fp32")
        return self


class SaeData(BaseModel, frozen=True, extra="forbid"):
    """Text whose states are learnt, and how they are mixed."""

    text: tuple[str, ...] = ()
    """Files or folders (.jsonl, .jsonl.zst, .txt, .md); empty: the corpus that ships with the package."""
    held_out: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the documents, by a hash of their text, for measurements only."""
    row_tokens: int = Field(default=512, ge=8)
    """Tokens of a row; documents are packed, and do not see each other."""
    rows_at_once: int = Field(default=8, gt=0)
    """Rows of a forward pass."""
    window_tokens: int = Field(default=262_144, gt=0)
    """Tokens whose states are kept and shuffled together."""
    skip_first: int = Field(default=1, ge=0)
    """First tokens of a document that are left out: attention sinks, whose states are larger by orders."""


class SaeRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe of an autoencoder of one place in a model."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    base: str
    """A GGUF file, a checkpoint folder, the name of a model (`agentkit models list`), or a stage."""
    layer: int = Field(ge=0)
    """Layer, from 0."""
    point: Point = "residual"
    """States: the output of the layer, what its attention or MLP adds, or the MLP from input to output."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""
    sae: SaeForm
    data: SaeData = SaeData()
    tokens: int = Field(default=10_000_000, gt=0)
    """Tokens of the training, documents repeated as needed."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of an optimizer step."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate; None: 2e-4 times the root of 2^14 / latents, for long runs. Runs of a few thousand steps find
    more with several times that.
    """
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the run in which the learning rate rises, at most 1,000 steps."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the run at its end in which the learning rate falls to 0, linearly."""
    max_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm; larger gradients are scaled down."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number type of the model and of its states."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; `auto`: CUDA if available."""
    threads: int | None = Field(default=None, gt=0)
    """Number of CPU threads; None: torch's choice. Sums depend on it, so a change on resume is reported."""
    evaluation_rows: int = Field(default=64, gt=0)
    """Rows of held-out text for the measurements at the end."""
    checkpoints: CheckpointRecipe = CheckpointRecipe(every=50, keep=2)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.data.window_tokens < self.batch_tokens:
            raise ValueError(
                f"data.window_tokens = {self.data.window_tokens} is less than batch_tokens = {self.batch_tokens}"
            )
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens = {self.tokens} is less than batch_tokens = {self.batch_tokens}: no step")
        if self.sae.skip and self.point != "transcoder":
            raise ValueError(f"sae.skip with point = {self.point!r}: only a transcoder has a skip matrix")
        if self.sae.kind == "topk" and self.point == "transcoder":
            raise ValueError("a transcoder with sae.kind = 'topk' has no file format: use batch_topk")
        return self

    @property
    def hook(self) -> HookPoint:
        """Place in the model."""
        return HookPoint(layer=self.layer, point=self.point)

    @property
    def n_steps(self) -> int:
        """Number of optimizer steps."""
        return self.tokens // self.batch_tokens

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        return RATE_AT_2_14 * math.sqrt(2**14 / self.sae.latents) if self.lr is None else self.lr

    @property
    def schedule(self) -> ScheduleConfig:
        """Learning rate over the run."""
        n_steps = self.n_steps
        decay = max(1, round(self.decay * n_steps))
        return ScheduleConfig(
            kind="wsd",
            warmup_steps=min(math.ceil(self.warmup * n_steps), 1000, n_steps - decay),
            total_steps=n_steps,
            decay_steps=decay,
        )


class SaeResolved(BaseModel, frozen=True):
    """Recipe with the hashes of what it reads; it stays the same until the run ends."""

    free: ClassVar[Places] = {
        ("weights",),
        *(("recipe", name) for name in ("name", "base", "evaluation_rows", "checkpoints")),
    }
    """Settings that may change on resume: the base is identified by its hash, the others change no weight."""
    layout: ClassVar[Places] = {("recipe", "threads"), ("recipe", "device")}
    """Settings that may change on resume, but change the order of sums."""
    recipe: SaeRecipe
    weights: str
    """Path of the weights when the run began."""
    base_sha256: str
    """Hash of the weights and the adapter."""
    text_sha256: tuple[str, ...]
    """Hashes of the files of text."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all settings, with file names instead of paths."""
        recipe: dict[str, Any] = self.recipe.model_dump(mode="json")
        recipe["base"] = Path(self.recipe.base).name
        recipe["data"]["text"] = [Path(path).name for path in self.recipe.data.text]
        content = {"recipe": recipe, "base": self.base_sha256, "text": self.text_sha256}
        return hashlib.sha256(canonical(content).encode()).hexdigest()
