"""Measures the embedded model as a judge: how often it prefers a revision to the reply that helped with harm.

The judgement uses the model's log-probabilities of the two letters, in both orders, with the constitution's choice
principles. Larger local models use the same method; this measures the smallest. Chance is one half. Position bias
is the increase of a reply's probability when it is shown first.
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
    """Results of the judge."""

    prefers_revision: Interval
    """Share of pairs in which the revision is preferred, averaged over both orders."""
    same_letter: Interval
    """Share of pairs with the same position preferred in both orders, so that the order alone decides."""
    position_bias: Interval


async def embedded_judge(
    constitution: Constitution, revised: Sequence[Revised], model: EngineModel, n_most: int, seed: int, path: Path
) -> EmbeddedJudge:
    """Judge revisions against the original replies.

    Args:
        constitution: Source of the choice principles.
        revised: Results of the supervised stage; those that changed a reply are judged.
        model: The judge.
        n_most: Maximum number of pairs.
        seed: Seed of the choice of principles.
        path: Folder of the run; an unfinished run is resumed.
    """
    changed = [each for each in revised if each.target is not None and each.target != each.reply][:n_most]
    prompts = [each.prompt.model_copy(update={"replies": (each.reply, each.target)}) for each in changed]
    how = ConstitutionRecipe(seed=seed, feedback=FeedbackSettings(min_margin=0), concurrency=1)
    return figures(await run_comparisons(constitution, prompts, how, Models(model, model, model), path))


def figures(compared: Sequence[Comparison]) -> EmbeddedJudge:
    """Return the judge's results from comparisons of a reply (first) and its revision."""
    judged = [each for each in compared if each.label is not None and len(each.shown) == 2]
    sides = [[shown.p_first_shown > 0.5 for shown in each.shown] for each in judged]
    return EmbeddedJudge(
        wilson(sum(each.label is not None and each.label < 0.5 for each in judged), len(judged)),
        wilson(sum(first == second for first, second in sides), len(judged)),
        mean_interval([each.position_bias for each in judged if each.position_bias is not None]),
    )
