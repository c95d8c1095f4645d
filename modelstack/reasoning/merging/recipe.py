"""What a merge is made of: a method, the parents, and the few numbers that the method reads.

A key that the method does not read is a mistake, not a key without effect.
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
"""mergekit's names."""
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
"""What each method reads besides parents and base."""
_TUNABLE = frozenset[str]().union(*READS.values())
ELECT_SIGNS: frozenset[Method] = frozenset({"ties", "dare_ties", "della", "breadcrumbs_ties"})
_NORMALIZED: frozenset[Method] = frozenset({"ties", "della"})
"""By default; mergekit's."""
WITHOUT_BASE: frozenset[Method] = frozenset({"linear", "slerp"})


class MergeRecipe(BaseModel, frozen=True, extra="forbid"):
    """A merge of models, or of LoRA adapters."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    method: Method
    parents: tuple[str, ...] = Field(min_length=1)
    """Folders of stages, all with a model or all with an adapter; a model may also be a checkpoint folder or a
    GGUF file, which is held in memory whole. The merged model has the config and the tokenizer of the first."""
    base: str | None = None
    """Of models: what they were trained from, for methods that add up differences to it. Of adapters: the weights
    that they go on."""
    unrecorded: bool = False
    """Take parents without a stage's record: that they are of one base is then known to nobody but you."""
    weights: tuple[float, ...] | None = None
    """Of the parents; none: 1 each."""
    t: float = Field(default=0.5, ge=0, le=1)
    """Of slerp: 0 is the first parent, 1 the second."""
    arcs: Arcs = "tensor"
    """Of slerp: an angle for a whole tensor, or for each of its output rows."""
    density: float | tuple[float, ...] | None = None
    """Share of a task vector's entries that is kept; one for all parents, or one for each."""
    scale: float = 1.0
    """On the sum of the task vectors: the papers' lambda."""
    normalize: bool | None = None
    """Divide the sum by the weights in it; none: as the method is known, yes for ties and della."""
    epsilon: float = Field(default=0.15, ge=0, lt=0.5)
    """Of della: the smallest entries are kept with probability density - epsilon, the largest with + epsilon."""
    gamma: float = Field(default=0.01, ge=0, lt=1)
    """Of breadcrumbs: share of the largest entries that is left out."""
    rescale: Rescale = "probability"
    """What makes up for entries dropped by chance."""
    seed: int = Field(default=0, ge=0)
    """Of that chance."""
    linear: tuple[str, ...] = ("norm", "embed", "lm_head")
    """Tensors with one of these in their name are plain weighted sums: of the parents, or of their task vectors,
    none of whose entries is dropped or outvoted. An empty list: none are."""
    rank: int | None = Field(default=None, ge=1)
    """Of adapters: factorise the merged update to this rank, as an adapter; none: write it into the base."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of a merged model's weights; none: as in the first parent's file, or in the base's where parents are
    adapters. GGUF files count as float32."""
    gguf: str | None = None
    """Number type of a file for llama.cpp beside a merged model (f16, q8_0, q4_1, ...); none: no such file."""

    @model_validator(mode="after")
    def _is_of_the_method(self) -> Self:
        reads = READS[self.method]
        if idle := sorted(self.model_fields_set & _TUNABLE - reads):
            raise ValueError(
                f"{idle[0]} has no meaning for method {self.method!r}, which reads "
                f"{', '.join(sorted(reads)) or 'nothing but parents and base'}: leave it out"
            )
        if "density" in reads and self.density is None:
            raise ValueError(f"method {self.method!r} needs density, the share of entries to keep: 0.5, say")
        if self.rank is not None and (self.dtype is not None or self.gguf is not None):
            raise ValueError("rank makes an adapter, dtype and gguf are of a model: leave out one or the other")
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        n = len(self.parents)
        if twice := sorted({path for path in self.parents if self.parents.count(path) > 1}):
            raise ValueError(f"parent {twice[0]!r} is named twice: give it a larger weight")
        if self.method == "slerp" and n != 2:
            raise ValueError(f"slerp goes from one parent to another, and {n} are named: name two")
        if self.method == "model_stock" and n < 2:
            raise ValueError("model_stock measures angles between parents: name two or more")
        if self.weights is not None and len(self.weights) != n:
            raise ValueError(f"{len(self.weights)} weights for {n} parents: give one for each")
        if isinstance(self.density, tuple) and len(self.density) != n:
            raise ValueError(f"{len(self.density)} densities for {n} parents: give one for all, or one for each")
        return self

    @model_validator(mode="after")
    def _densities_are_shares(self) -> Self:
        for density in self.densities:
            if not 0 < density <= 1:
                raise ValueError(f"density {density} is no share: above 0, at most 1")
            if "epsilon" in READS[self.method] and density < 1 and not self.epsilon < density < 1 - self.epsilon:
                raise ValueError(
                    f"density {density} with epsilon {self.epsilon} gives probabilities outside 0 to 1: make "
                    f"epsilon smaller than {min(density, 1 - density):.3g}"
                )
        return self

    @property
    def weight_of_each(self) -> tuple[float, ...]:
        """Return the parents' weights."""
        return self.weights or (1.0,) * len(self.parents)

    @property
    def densities(self) -> tuple[float, ...]:
        """Return the parents' densities."""
        if isinstance(self.density, tuple):
            return self.density
        return (1.0 if self.density is None else self.density,) * len(self.parents)

    @property
    def normalizes(self) -> bool:
        """Whether a sum of task vectors is divided by the weights in it."""
        return self.method in _NORMALIZED if self.normalize is None else self.normalize


class MergeResolved(BaseModel, frozen=True):
    """A recipe with its parents' hashes; a run is held to it."""

    recipe: MergeRecipe
    weights: str
    """Where the base, or the first parent's model, lay when the run began."""
    base_sha256: str
    parents: tuple[Origin, ...]
    base: Origin | None
    """None: the method needs none."""

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with names for paths, and without what its method does not read."""
        content = self.recipe.model_dump(mode="json", exclude=set(_TUNABLE - READS[self.recipe.method]))
        content["parents"] = [parent.name for parent in self.parents]
        content["base"] = None if self.base is None else self.base.name
        resolved = {"weights": list(self.recipe.weight_of_each), "normalize": self.recipe.normalizes}
        return content | {key: value for key, value in resolved.items() if key in content}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it, names for paths."""
        content = self.model_dump(mode="json", exclude={"weights"}) | {"recipe": self.portable}
        return hashlib.sha256(canonical(content).encode()).hexdigest()


FREE = {("weights",), ("recipe", "parents"), ("recipe", "base")}
"""What may change between a stop and going on: parents and base are known by their hashes."""
