"""`modelstack reinforce`: tasks with verifiable rewards in, a stage out."""

from __future__ import annotations

from modelstack.posttrain.command import Arguments, Out, run_recipe


def reinforce(arguments: Arguments, out: Out = None) -> None:
    """Train a model by verified rewards (GRPO and its relatives); the same command goes on after a stop."""
    from modelstack.reasoning.policy.recipe import PolicyRecipe
    from modelstack.reasoning.policy.run import reinforce as run

    run_recipe(PolicyRecipe, run, arguments, out)
