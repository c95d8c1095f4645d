"""Policy and critic as one module with one optimizer: what a step moves, and what a checkpoint holds.

The loop knows of a model, an optimizer and passes. So PPO needs no loop of its own: its model has two parts, its
optimizer two sets of groups at two learning rates, and a run that goes on finds the critic and its moments where
it finds the policy's.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.lora.adapters import add_lora, lora_optimizer
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.state import AdapterState
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.reward.value_model import ValueModel, load_value_model
from modelstack.preferences.reward.value_training import value_groups
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.optimizer import GroupedOptimizer
from modelstack.train.passes import Passes
from modelstack.train.precision import with_fp32_masters
from modelstack.train.step import TrainState


class ActorCritic(nn.Module):
    """A policy and its critic, which share nothing."""

    def __init__(self, policy: CausalLM, critic: ValueModel) -> None:
        """Take both, on one device."""
        super().__init__()
        self.policy = policy
        self.critic = critic


def critic_of(policy: CausalLM, recipe: PpoRecipe, lora: LoraConfig | None, reward: Stage | None) -> ValueModel:
    """Return the critic that training begins with, on the policy's device.

    Args:
        policy: At its start, with adapters where `lora` is given.
        recipe: Whose weights the critic takes.
        lora: Of policy and critic alike; None: all weights of both are trained.
        reward: The reward model's stage.

    Raises:
        UserError: The reward model cannot be read, or adapters do not fit it.
    """
    weight = policy.lm_head.weight
    if reward is not None and recipe.critic.start != "policy":
        critic = load_value_model(reward.weights, dtype=weight.dtype)
        if lora is not None:
            add_lora(critic.body, lora)
    else:
        critic = ValueModel(copy.deepcopy(policy))
    return critic.to(weight.device)


def actor_critic_state(
    model: ActorCritic, recipe: PpoRecipe, lora: LoraConfig | None, passes: Passes
) -> TrainState:
    """Return the state of both, which one optimizer moves at two learning rates."""
    of_critic = recipe.optimizer.model_copy(update={"lr": recipe.critic.lr})

    def build(of: nn.Module) -> torch.optim.Optimizer:
        of_policy = (
            build_optimizer(model.policy, recipe.optimizer)
            if lora is None
            else lora_optimizer(model.policy, lora, recipe.optimizer)
        )
        groups = [*of_policy.param_groups, *value_groups(model.critic, lora, of_critic)]
        return GroupedOptimizer(groups)

    if lora is not None:
        return AdapterState(model, build(model), passes)
    optimizer = build(model) if recipe.precision == "fp32" else with_fp32_masters(model, build)
    return TrainState(model, optimizer, passes)
