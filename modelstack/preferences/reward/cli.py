"""`modelstack reward`: pairs in, a reward model out."""

from __future__ import annotations

from modelstack.posttrain.command import Arguments, Out, run_recipe


def reward(arguments: Arguments, out: Out = None) -> None:
    """Train a reward model on pairs, for PPO and for ranking; the same command goes on after a stop."""
    from modelstack.preferences.reward.recipe import RewardRecipe
    from modelstack.preferences.reward.run import train_reward_model

    run_recipe(RewardRecipe, train_reward_model, arguments, out)
