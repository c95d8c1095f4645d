"""Training recipes of both programs of `train_to_loss`.

nanoGPT: its settings for small models (`config/train_shakespeare_char.py`: LR 1e-3 to 1e-4, beta2 0.99, T 256)
with batches of 4,096 tokens, and no dropout because no text is repeated. Its 6 layers of width 384 take 80 MFLOP
per token, so four minutes on two cores would be about 80 steps; 4 layers of width 256 take 28 MFLOP, for 232
steps. Its warm-up of 100 steps would be nearly half of the run; it is a twentieth instead.

modelstack: Qwen3's block, which llama.cpp runs, with fewer parameters: with so few tokens a smaller model learns
as much from each token and takes less time. Muon for matrices, AdamW for the rest. 1,024 tokens per step: a larger
batch means fewer steps and learns less from the same text; a smaller one is not better and increases the share of
Muon's time. `modelstack/train/LOG.md` records the measurements behind each choice, on validation documents.
"""

from __future__ import annotations

from typing import TypeVar

from evals.speed.loss_runs import ROW_TOKENS, ModelstackRecipe, NanoGptRecipe
from modelstack.train.optimizers.config import OptimizerConfig

QUICK_STEPS = 6
Recipe = TypeVar("Recipe", NanoGptRecipe, ModelstackRecipe)

NANOGPT = NanoGptRecipe(layers=4, width=256, heads=4, rows=8, micro_batches=2, steps=232, warmup_steps=12, lr=1e-3)
NANOGPT_TUNED = NANOGPT.model_copy(
    update={"rows": 4, "micro_batches": 1, "steps": 928, "warmup_steps": 46, "lr": 3e-3}
)
"""The same model and number of tokens with the best settings on validation text: a quarter of the batch, three
times the rate. Used by `--tuned`."""
OURS_RECIPE = ModelstackRecipe(
    model={
        "model_type": "qwen3",
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "max_position_embeddings": ROW_TOKENS,
        "tie_word_embeddings": True,
    },
    optimizer=OptimizerConfig(lr=1e-2, muon_lr=4e-3, newton_schulz="quintic_5", update_rms=0.2),
    rows=4,
    steps=300,
    warmup_steps=6,
    decay_steps=150,
)


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of a few steps that only tests that everything works."""
    changes = {"steps": QUICK_STEPS, "warmup_steps": 1}
    if isinstance(recipe, ModelstackRecipe):
        changes["decay_steps"] = QUICK_STEPS // 2
    return recipe.model_copy(update=changes)
