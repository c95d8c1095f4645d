"""`modelstack distil`: a student, a teacher and prompts in, a stage out."""

from __future__ import annotations

from modelstack.posttrain.command import Arguments, Out, run_recipe


def distil(arguments: Arguments, out: Out = None) -> None:
    """Train a student on a teacher's distributions, on given texts or its own; the same command goes on."""
    from modelstack.reasoning.distil.recipe import DistilRecipe
    from modelstack.reasoning.distil.run import distil as run

    run_recipe(DistilRecipe, run, arguments, out)
