"""How value models are trained: what an optimizer moves of them, and the state that checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from modelstack.posttrain.lora.adapters import lora_optimizer
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.state import AdapterState
from modelstack.posttrain.recipe import TuningRecipe
from modelstack.preferences.reward.value_model import ValueModel
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.optimizers.optimizer import GroupedOptimizer
from modelstack.train.passes import Passes
from modelstack.train.precision import with_fp32_masters
from modelstack.train.step import TrainState


def value_groups(model: ValueModel, lora: LoraConfig | None, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups of a value model: its adapters, or all weights, and its head.

    Args:
        model: With adapters where `lora` is given.
        lora: Their form; None: all weights are trained.
        optimizer: The recipe's values.
    """
    if lora is None:
        return build_optimizer(model, optimizer).param_groups
    head = {
        "params": [model.score.weight, model.score.bias],
        "names": ["score.weight", "score.bias"],
        "method": "adamw",
        "lr": optimizer.lr,
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.vector_weight_decay,
    }
    return [*lora_optimizer(model.body, lora, optimizer).param_groups, head]


def value_state(model: ValueModel, recipe: TuningRecipe, lora: LoraConfig | None, passes: Passes) -> TrainState:
    """Return the state of a value model that the recipe's optimizer moves; a checkpoint holds what is trained."""

    def build(of: nn.Module) -> torch.optim.Optimizer:
        return GroupedOptimizer(value_groups(model, lora, recipe.optimizer))

    if lora is not None:
        return AdapterState(model, build(model), passes)
    optimizer = build(model) if recipe.precision == "fp32" else with_fp32_masters(model, build)
    return TrainState(model, optimizer, passes)
