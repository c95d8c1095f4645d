"""What the embedded model is worth as a judge: does it prefer the revision to the reply that helped with harm?

Its own log-probabilities of the two letters, both orders, the constitution's choice principles: the path that any
larger local model takes, measured on the smallest. Chance is one half; position bias is by how much standing first
raises a reply's probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.statistics import Interval, mean_interval, wilson
from modelstack.preferences.constitution.critique import Revised
from modelstack.preferences.constitution.engine_asking import EngineModel
from modelstack.preferences.constitution.feedback import Comparison, FeedbackSettings
from modelstack.preferences.constitution.run import ConstitutionRecipe, Models, run_comparisons
from modelstack.preferences.constitution.schema import Constitution


@dataclass(frozen=True, slots=True)
class EmbeddedJudge:
    """How it judged."""

    prefers_revision: Interval
    """Both orders averaged."""
    same_letter: Interval
    """Pairs for which it preferred the same place in both orders: those that the order alone decides."""
    position_bias: Interval


async def embedded_judge(
    constitution: Constitution, revised: Sequence[Revised], model: EngineModel, n_most: int, seed: int, path: Path
) -> EmbeddedJudge:
    """Judge revisions beside the replies that they were made of.

    Args:
        constitution: Whose choice principles are asked under.
        revised: Of the supervised stage; those that changed a reply are judged.
        model: Who judges.
        n_most: Pairs at most.
        seed: Draws principles.
        path: Folder of the run, which is gone on with.
    """
    changed = [each for each in revised if each.target is not None and each.target != each.reply][:n_most]
    prompts = [each.prompt.model_copy(update={"replies": (each.reply, each.target)}) for each in changed]
    how = ConstitutionRecipe(seed=seed, feedback=FeedbackSettings(min_margin=0), concurrency=1)
    return figures(await run_comparisons(constitution, prompts, how, Models(model, model, model), path))


def figures(compared: Sequence[Comparison]) -> EmbeddedJudge:
    """Return what comparisons of a reply (first) and its revision say of the judge."""
    judged = [each for each in compared if each.label is not None and len(each.shown) == 2]
    sides = [[shown.p_first_shown > 0.5 for shown in each.shown] for each in judged]
    return EmbeddedJudge(
        wilson(sum(each.label is not None and each.label < 0.5 for each in judged), len(judged)),
        wilson(sum(first == second for first, second in sides), len(judged)),
        mean_interval([each.position_bias for each in judged if each.position_bias is not None]),
    )
