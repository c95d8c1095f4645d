"""What a recipe says of the optimizer.

The defaults are DeepSeek-V4's (arXiv 2606.19348) but for eps and the decay of vectors: Muon for matrices, AdamW
for the rest, one learning rate for both, which works because Muon's update is scaled to AdamW's usual size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["matrix", "embedding", "head", "vector"]
"""What a parameter is to the optimizer; `vector` is all that is not one of the others."""


class OptimizerConfig(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["muon", "adamw"] = "muon"
    """`muon`: for matrices, with AdamW for the rest; `adamw`: for everything."""

    lr: float = Field(default=3e-4, gt=0)
    """At the top of the schedule, whose factor multiplies it."""
    muon_lr: float | None = Field(default=None, gt=0)
    """Of what Muon moves; None: `lr`, as in V4."""
    embedding_lr: float | None = Field(default=None, gt=0)
    """Of the embedding, and of a head tied to it; None: `lr`."""
    head_lr: float | None = Field(default=None, gt=0)
    """Of a head of its own; None: `lr`."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled, times the learning rate; for matrices, embedding and head."""
    vector_weight_decay: float = Field(default=0.0, ge=0)
    """For norms, biases and the like. 0 is the common practice; V4 decays its norms by 0.1 as well."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    """Of AdamW; V4 trains with 1e-20."""

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of Muon: M <- momentum M + G."""
    nesterov: bool = True
    newton_schulz: Literal["quintic_5", "deepseek_v4_10"] = "deepseek_v4_10"
    """Steps of the orthogonalisation: see `newton_schulz.SCHEDULES`."""
    newton_schulz_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """bf16 suffices (V4's report); fp32 where runs on different layouts are compared number by number."""
    update_rms: float = Field(default=0.18, gt=0)
    """Root mean square of Muon's update: the orthogonal matrix times this times sqrt(max(n, m)). V4: 0.18;
    Moonlight (arXiv 2502.16982): 0.2, to match AdamW's."""

    adamw_names: tuple[str, ...] = ()
    """Patterns (`*.gate.weight`) of matrices that AdamW is to move instead of Muon."""
