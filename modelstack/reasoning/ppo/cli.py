"""`modelstack ppo`: prompts and a judge in, a stage out."""

from __future__ import annotations

from modelstack.posttrain.command import Arguments, Out, run_recipe


def ppo(arguments: Arguments, out: Out = None) -> None:
    """Train a model by PPO with a critic, against a reward model or a verifier; the same command goes on."""
    from modelstack.reasoning.ppo.recipe import PpoRecipe
    from modelstack.reasoning.ppo.run import optimise

    run_recipe(PpoRecipe, optimise, arguments, out)
