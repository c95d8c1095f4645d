"""Policy and critic as one module with one optimizer.

The training loop has one model, one optimizer and one set of passes. The model of PPO therefore has two parts, and
its optimizer has groups with two learning rates, so a checkpoint also holds the critic and its optimizer state.
"""

from __future__ import annotations

import copy

from torch import nn

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.lora.adapters import add_lora, lora_optimizer
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.stages.stage import Stage
from modelstack.preferences.reward.value_model import ValueModel, load_value_model, value_groups
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.optimizer import GroupedOptimizer


class ActorCritic(nn.Module):
    """Policy and critic, without shared weights."""

    def __init__(self, policy: CausalLM, critic: ValueModel) -> None:
        """Combine two models on the same device."""
        super().__init__()
        self.policy = policy
        self.critic = critic


def critic_of(policy: CausalLM, recipe: PpoRecipe, lora: LoraConfig | None, reward: Stage | None) -> ValueModel:
    """Return the initial critic, on the policy's device.

    Args:
        policy: Initial policy, with adapters if `lora` is given.
        recipe: Recipe, which names the source of the critic's weights.
        lora: Form of the adapters of policy and critic; None: all weights of both are trained.
        reward: Stage of the reward model, if there is one.

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


def actor_critic_optimizer(model: ActorCritic, recipe: PpoRecipe, lora: LoraConfig | None) -> GroupedOptimizer:
    """Return one optimizer for policy and critic, with two learning rates."""
    of_policy = (
        build_optimizer(model.policy, recipe.optimizer)
        if lora is None
        else lora_optimizer(model.policy, lora, recipe.optimizer)
    )
    of_critic = recipe.optimizer.model_copy(update={"lr": recipe.critic.lr})
    return GroupedOptimizer([*of_policy.param_groups, *value_groups(model.critic, lora, of_critic)])
