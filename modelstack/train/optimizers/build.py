"""Construction of the optimizer of a model from a config."""

from __future__ import annotations

from typing import Any

from torch import nn

from modelstack.errors import UserError
from modelstack.train.optimizers.config import OptimizerConfig, Role
from modelstack.train.optimizers.grouping import Placed, placed_parameters
from modelstack.train.optimizers.optimizer import GroupedOptimizer

ROLES: tuple[Role, ...] = ("matrix", "embedding", "head", "vector")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> GroupedOptimizer:
    """Return an optimizer over all trainable parameters, with one group for each role that occurs.

    Groups contain the role, the names of their parameters and `initial_lr`, which schedules scale.

    Args:
        model: The model, sharded or not; build the optimizer after sharding and casting.
        config: The optimizer section of the recipe.

    Raises:
        UserError: No parameter is trainable, or a pattern of `adamw_names` matches no matrix.
    """
    placed = placed_parameters(model, config.adamw_names)
    if not placed:
        raise UserError("the model has no trainable parameter: requires_grad is false for all; unfreeze some")
    groups = []
    for role in ROLES:
        of_role = [one for one in placed if one.role == role]
        if of_role:
            groups.append(_group(role, of_role, config))
    return GroupedOptimizer(groups)


def _group(role: Role, of_role: list[Placed], config: OptimizerConfig) -> dict[str, Any]:
    group: dict[str, Any] = {
        "params": [one.parameter for one in of_role],
        "names": [one.name for one in of_role],
        "role": role,
        "weight_decay": config.vector_weight_decay if role == "vector" else config.weight_decay,
    }
    if role == "matrix" and config.name == "muon":
        return group | {
            "method": "muon",
            "lr": config.muon_lr or config.lr,
            "fusions": [one.fusion for one in of_role],
            "momentum": config.momentum,
            "nesterov": config.nesterov,
            "newton_schulz": config.newton_schulz,
            "newton_schulz_dtype": config.newton_schulz_dtype,
            "update_rms": config.update_rms,
        }
    own_lr = {"embedding": config.embedding_lr, "head": config.head_lr}.get(role)
    return group | {"method": "adamw", "lr": own_lr or config.lr, "betas": config.betas, "eps": config.eps}
