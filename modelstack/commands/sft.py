"""Step 7: supervised fine-tuning."""

from __future__ import annotations

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, run_recipe


@explained(
    reads="a model by name or file, a checkpoint or a stage (`base`), and examples (`data.training`)",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf, or model/; README.md, metrics, checkpoints",
    example="modelstack sft tools base=qwen2.5-coder-0.5b",
    then="modelstack reinforce effects; modelstack stage merge runs/tools runs/tools-merged",
)
def sft(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Fine-tune a model on examples, LoRA or all weights; the same command resumes a run that was stopped."""
    from modelstack.sft.run import fine_tune

    run_recipe(fine_tune, "sft", arguments, out)
