"""Step 8: training on preferences, and reward models."""

from __future__ import annotations

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, run_recipe


@explained(
    reads="a model or a stage (`base`), and pairs or thumbs (`data.training`)",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf, or model/; README.md, metrics, checkpoints",
    example="modelstack prefer dpo base=model.gguf",
    then="modelstack stage lineage runs/prefer; from the same pairs, modelstack reward bradley-terry",
)
def prefer(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a model on preferences (DPO family, SimPO, CPO, ORPO, KTO); the same command resumes it."""
    from modelstack.preferences.run import prefer as run

    run_recipe(run, "prefer", arguments, out)


@explained(
    reads="a model or a stage (`base`), and pairs (`data.training`)",
    writes="runs/NAME, a stage: adapter/ or model/ with value_head.safetensors",
    example="modelstack reward bradley-terry base=model.gguf",
    then="modelstack ppo instructgpt base=model.gguf",
)
def reward(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a reward model on pairs, for PPO and for best of n; the same command resumes it."""
    from modelstack.preferences.reward.run import train_reward_model

    run_recipe(train_reward_model, "reward", arguments, out)
