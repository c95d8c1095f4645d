"""Recipe of a merge: a method, its parents, and the settings that the method reads.

A key that the method does not read is an error.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.posttrain.stages.record import Origin, canonical
from modelstack.reasoning.merging.slerp import Arcs
from modelstack.reasoning.merging.sparsify import Rescale

Method = Literal[
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "model_stock",
]
"""Merge methods, by mergekit's names."""
_SUM = frozenset({"weights", "scale", "normalize"})
_SPARSE = _SUM | {"density"}
READS: dict[Method, frozenset[str]] = {
    "linear": frozenset({"weights"}),
    "slerp": frozenset({"t", "arcs"}),
    "task_arithmetic": _SUM,
    "ties": _SPARSE,
    "dare_linear": _SPARSE | {"rescale", "seed"},
    "dare_ties": _SPARSE | {"rescale", "seed"},
    "della": _SPARSE | {"rescale", "seed", "epsilon"},
    "della_linear": _SPARSE | {"rescale", "seed", "epsilon"},
    "breadcrumbs": _SPARSE | {"gamma"},
    "breadcrumbs_ties": _SPARSE | {"gamma"},
    "model_stock": frozenset(),
}
"""Settings that each method reads, besides parents and base."""
_TUNABLE = frozenset[str]().union(*READS.values())
ELECT_SIGNS: frozenset[Method] = frozenset({"ties", "dare_ties", "della", "breadcrumbs_ties"})
_NORMALIZED: frozenset[Method] = frozenset({"ties", "della"})
"""Methods that normalise by default, as in mergekit."""
WITHOUT_BASE: frozenset[Method] = frozenset({"linear", "slerp"})


class MergeRecipe(BaseModel, frozen=True, extra="forbid"):
    """Recipe for merging models or LoRA adapters."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    method: Method
    """Merge method."""
    parents: tuple[str, ...] = Field(min_length=1)
    """Folders of stages, either all models or all adapters. A model may also be a checkpoint folder or a GGUF
    file, which is loaded completely into memory. The merged model takes config and tokenizer of the first
    parent."""
    base: str | None = None
    """For models: the common base, for methods that add differences to it. For adapters: the base model."""
    unrecorded: bool = False
    """Whether to accept parents without a stage's record, whose common base cannot be checked."""
    weights: tuple[float, ...] | None = None
    """Weights of the parents; None: 1 each."""
    t: float = Field(default=0.5, ge=0, le=1)
    """Position between the parents for slerp: 0 is the first, 1 the second."""
    arcs: Arcs = "tensor"
    """Angles for slerp: one per tensor, or one per output row."""
    density: float | tuple[float, ...] | None = None
    """Share of a task vector's entries that is kept; one for all parents, or one per parent."""
    scale: float = 1.0
    """Factor of the summed task vectors; lambda in the papers."""
    normalize: bool | None = None
    """Whether to divide the sum by its weights; None: the method's default, true for ties and della."""
    epsilon: float = Field(default=0.15, ge=0, lt=0.5)
    """Spread of the probabilities for della: density - epsilon for the smallest entries, density + epsilon for
    the largest."""
    gamma: float = Field(default=0.01, ge=0, lt=1)
    """Share of the largest entries that breadcrumbs drops."""
    rescale: Rescale = "probability"
    """Compensation for randomly dropped entries."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random choice of entries."""
    linear: tuple[str, ...] = ("norm", "embed", "lm_head")
    """Substrings of tensor names. Matching tensors are merged as plain weighted sums of the parents or of
    complete task vectors. An empty list: no tensor is."""
    rank: int | None = Field(default=None, ge=1)
    """For adapters: rank of the merged adapter; None: add the update to the base."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of a merged model; None: that of the first parent, or of the base for adapters. GGUF files count as
    float32."""
    gguf: str | None = None
    """Number type of an additional llama.cpp file beside a merged model (f16, q8_0, q4_1, ...); None: no such
    file.
    """

    @model_validator(mode="after")
    def _is_of_the_method(self) -> Self:
        reads = READS[self.method]
        if idle := sorted(self.model_fields_set & _TUNABLE - reads):
            raise ValueError(
                f"{idle[0]} is not read by method {self.method!r}, which reads "
                f"{', '.join(sorted(reads)) or 'nothing but parents and base'}: leave it out"
            )
        if "density" in reads and self.density is None:
            raise ValueError(
                f"method {self.method!r} needs density, the share of entries to keep, for example 0.5"
            )
        if self.rank is not None and (self.dtype is not None or self.gguf is not None):
            raise ValueError(
                "rank makes an adapter, but dtype and gguf are for a model: leave out one or the other"
            )
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        n = len(self.parents)
        if twice := sorted({path for path in self.parents if self.parents.count(path) > 1}):
            raise ValueError(f"parent {twice[0]!r} is named twice: give it a larger weight")
        if self.method == "slerp" and n != 2:
            raise ValueError(f"{n} parents are named, but slerp takes exactly two")
        if self.method == "model_stock" and n < 2:
            raise ValueError("model_stock measures angles between parents: name two or more")
        if self.weights is not None and len(self.weights) != n:
            raise ValueError(f"{len(self.weights)} weights for {n} parents: give one per parent")
        if isinstance(self.density, tuple) and len(self.density) != n:
            raise ValueError(f"{len(self.density)} densities for {n} parents: give one for all, or one per parent")
        return self

    @model_validator(mode="after")
    def _densities_are_shares(self) -> Self:
        for density in self.densities:
            if not 0 < density <= 1:
                raise ValueError(f"density is {density}; it must be above 0 and at most 1")
            if "epsilon" in READS[self.method] and density < 1 and not self.epsilon < density < 1 - self.epsilon:
                raise ValueError(
                    f"density {density} with epsilon {self.epsilon} gives probabilities outside 0 to 1; make "
                    f"epsilon smaller than {min(density, 1 - density):.3g}"
                )
        return self

    @property
    def weight_of_each(self) -> tuple[float, ...]:
        """Return one weight per parent."""
        return self.weights or (1.0,) * len(self.parents)

    @property
    def densities(self) -> tuple[float, ...]:
        """Return one density per parent."""
        if isinstance(self.density, tuple):
            return self.density
        return (1.0 if self.density is None else self.density,) * len(self.parents)

    @property
    def normalizes(self) -> bool:
        """Whether a sum of task vectors is divided by its weights."""
        return self.method in _NORMALIZED if self.normalize is None else self.normalize


class MergeResolved(BaseModel, frozen=True):
    """Recipe with the hashes of its parents; a resumed run must match it."""

    recipe: MergeRecipe
    weights: str
    """Path of the base, or of the first parent's model, when the run began."""
    base_sha256: str
    parents: tuple[Origin, ...]
    base: Origin | None
    """Base model; None: the method needs none."""

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with names instead of paths, and without keys that its method does not read."""
        content = self.recipe.model_dump(mode="json", exclude=set(_TUNABLE - READS[self.recipe.method]))
        content["parents"] = [parent.name for parent in self.parents]
        content["base"] = None if self.base is None else self.base.name
        resolved = {"weights": list(self.recipe.weight_of_each), "normalize": self.recipe.normalizes}
        return content | {key: value for key, value in resolved.items() if key in content}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, with names instead of paths."""
        content = self.model_dump(mode="json", exclude={"weights"}) | {"recipe": self.portable}
        return hashlib.sha256(canonical(content).encode()).hexdigest()


FREE = {("weights",), ("recipe", "parents"), ("recipe", "base")}
"""Keys that may change when a run is resumed; parents and base are identified by their hashes."""
