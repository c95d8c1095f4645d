"""What both programs of `train_to_loss` train with.

nanoGPT: 4 layers of 256, its settings for small models (`config/train_shakespeare_char.py`: LR 1e-3 to 1e-4, beta2
0.99, T 256) and batches of 4,096 tokens, dropout 0 because no text comes twice; the warm-up of 100 steps is
shortened to a twentieth of the run, which is better for it. 232 steps are some four minutes on two cores.

Ours: 4 layers of 256 too, in the form of Qwen3, which llama.cpp runs, a little smaller than nanoGPT's. Muon for
matrices, AdamW for the rest, no learning rate of which the final figures' documents were asked. The measurements
behind each choice: `modelstack/train/LOG.md`.
"""

from __future__ import annotations

from typing import TypeVar

from evals.speed.loss_runs import ROW_TOKENS, ModelstackRecipe, NanoGptRecipe
from modelstack.architecture.initialise import Start
from modelstack.train.optimizers.config import OptimizerConfig

QUICK_STEPS = 6
Recipe = TypeVar("Recipe", NanoGptRecipe, ModelstackRecipe)

NANOGPT = NanoGptRecipe(layers=4, width=256, heads=4, rows=8, micro_batches=2, steps=232, warmup_steps=12, lr=1e-3)
OURS_RECIPE = ModelstackRecipe(
    model={
        "model_type": "qwen3",
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": ROW_TOKENS,
        "tie_word_embeddings": True,
    },
    start=Start(deviation="fan_in", outputs="zero"),
    optimizer=OptimizerConfig(lr=1e-2, muon_lr=5e-3, newton_schulz="quintic_5", update_rms=0.2, weight_decay=0.1),
    rows=4,
    steps=360,
    warmup_steps=7,
    decay_steps=180,
)


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of a few steps, to see that everything works."""
    changes = {"steps": QUICK_STEPS, "warmup_steps": 1}
    if isinstance(recipe, ModelstackRecipe):
        changes["decay_steps"] = QUICK_STEPS // 2
    return recipe.model_copy(update=changes)
