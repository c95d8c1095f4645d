"""What both programs of `train_to_loss` train with.

nanoGPT: its settings for small models (`config/train_shakespeare_char.py`: LR 1e-3 to 1e-4, beta2 0.99, T 256) and
batches of 4,096 tokens, no dropout because no text comes twice. Its 6 layers of 384 take 80 MFLOP a token, so four
minutes of two cores would be some 80 steps; 4 layers of 256 take 28, and 232 steps. Its warm-up of 100 steps would
be nearly half of that and is a twentieth instead.

Ours: Qwen3's block, which llama.cpp runs, with fewer parameters: at so few tokens a smaller model learns as much
from each and takes less time. Muon for matrices, AdamW for the rest. 1,024 tokens a step: more are fewer steps and
learn less from the same text, fewer are no better and leave more of the time to Muon. What was measured for each
choice, on validation documents, is in `modelstack/train/LOG.md`.
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
"""The same model and tokens with what served it best on validation text: a quarter of the batch, three times the
rate. `--tuned` compares with it."""
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
    """Return a recipe of a few steps, to see that everything works."""
    changes = {"steps": QUICK_STEPS, "warmup_steps": 1}
    if isinstance(recipe, ModelstackRecipe):
        changes["decay_steps"] = QUICK_STEPS // 2
    return recipe.model_copy(update=changes)
