"""The three experiments: which tasks, by which recipe, on which weights.

Sizes of files and the tasks' settings stand here, the training in the recipes of `modelstack reinforce`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelstack.reasoning.tasks.golds import VerifierName
from modelstack.reasoning.tasks.writing.effect_tasks import effects_source
from modelstack.reasoning.tasks.writing.gym_tasks import GymSettings, gym_source
from modelstack.reasoning.tasks.writing.json_tasks import json_source
from modelstack.reasoning.tasks.writing.written import Source
from modelstack.shipped_recipes import shipped_recipe

N_TRAINING, N_HELD_BACK = 600, 120
HELD_BACK_SEED, TRAINING_SEED = 1, 0
"""Seeds of the task files, which are the same for all training seeds."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An experiment."""

    name: str
    verifier: VerifierName
    source: Callable[[int], Source]
    """Returns the task generator of a seed."""
    what: str
    """Description for the report."""
    has_tool_adapter: bool = False
    """Whether training starts from the adapter shipped with the package; otherwise from the base."""

    @property
    def recipe(self) -> Path:
        """Return the path of the recipe."""
        return shipped_recipe(f"reinforce/{self.name}").path


ARITHMETIC = GymSettings(
    task="chain_sum",
    config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    form="equation",
)
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "arithmetic",
            "gym",
            lambda seed: gym_source(ARITHMETIC, seed),
            "Sums and differences of two numbers of one or two digits (reasoning-gym's chain_sum), written as an "
            "equation and nothing else.",
        ),
        Kind(
            "json",
            "json",
            lambda seed: json_source(),
            "A sentence as strict JSON with the keys that are asked for: no fence, no words, no key more, every "
            "value as in the sentence. Half of the held-back tasks are about things that are never trained on.",
        ),
        Kind(
            "effects",
            "effects",
            lambda seed: effects_source(),
            "Calls that must leave a small world as the gold calls leave it; no tool fits one in eight. Half of "
            "the held-back tasks are of worlds that are never trained on, the others in words that are not.",
            has_tool_adapter=True,
        ),
    )
}
