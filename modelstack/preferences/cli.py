"""`modelstack prefer`: preferences and a method in, a stage out."""

from __future__ import annotations

from modelstack.posttrain.command import Arguments, Out, run_recipe


def prefer(arguments: Arguments, out: Out = None) -> None:
    """Train a model on preferences (DPO family, SimPO, CPO, ORPO, KTO); the same command goes on after a stop."""
    from modelstack.preferences.recipe import PreferenceRecipe
    from modelstack.preferences.run import prefer as run

    run_recipe(PreferenceRecipe, run, arguments, out)
