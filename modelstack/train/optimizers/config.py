"""The optimizer section of a recipe.

The defaults are DeepSeek-V4's (arXiv 2606.19348) except for eps and the decay of vectors: Muon for matrices, AdamW
for the rest, and one learning rate for both, which works because Muon's update is scaled to AdamW's usual size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["matrix", "embedding", "head", "vector"]
"""Role of a parameter for the optimizer; `vector` is every parameter with no other role."""


class OptimizerConfig(BaseModel):
    """Optimizer settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for matrices and AdamW for the rest; `adamw`: AdamW for all parameters."""

    lr: float = Field(default=3e-4, gt=0)
    """Learning rate, multiplied by the schedule's factor."""
    muon_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the matrices that Muon updates; None: `lr`, as in V4."""
    embedding_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the embedding, and of a head tied to it; None: `lr`."""
    head_lr: float | None = Field(default=None, gt=0)
    """Learning rate of an untied head; None: `lr`."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay, multiplied by the learning rate; for matrices, embedding and head."""
    vector_weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of norms, biases and similar parameters. 0 is common practice; V4 also decays its norms by 0.1.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moments."""
    eps: float = Field(default=1e-8, gt=0)
    """Epsilon of AdamW; V4 trains with 1e-20."""

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon: M <- momentum M + G."""
    nesterov: bool = True
    """Whether Muon looks ahead by one step of its momentum."""
    newton_schulz: Literal["quintic_5", "deepseek_v4_10"] = "deepseek_v4_10"
    """Steps of the orthogonalisation: see `newton_schulz.SCHEDULES`."""
    newton_schulz_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the products. bf16 suffices (V4's report); use fp32 to compare different layouts number by number.
    """
    update_rms: float = Field(default=0.18, gt=0)
    """Root mean square of Muon's update: the orthogonal matrix times this times sqrt(max(n, m)). V4: 0.18;
    Moonlight (arXiv 2502.16982): 0.2, to match AdamW's.
    """

    adamw_names: tuple[str, ...] = ()
    """Name patterns (`*.gate.weight`) of matrices that AdamW updates instead of Muon."""
