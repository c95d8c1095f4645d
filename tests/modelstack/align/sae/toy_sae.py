"""A toy base, text of made-up words, and a recipe that trains in a second."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from modelstack.align.sae.sae_recipe import SaeRecipe
from modelstack.align.sae.train_sae import train_sae
from modelstack.recipe_file import checked_recipe
from tests.modelstack.sft.toy_sft import write_base

N_LAYERS = 3


def write_toy(folder: Path) -> Path:
    """Write `toy.gguf` and `texts.jsonl`; return the model."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(100)]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=40))}) + "\n" for _ in range(80)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    return write_base(folder, num_hidden_layers=N_LAYERS)


def keys(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the keys of a recipe; nested ones of `sae` and `data` are added to theirs."""
    found: dict[str, Any] = {
        "name": "toy",
        "base": str(folder / "toy.gguf"),
        "layer": 1,
        "tokens": 64 * 24,
        "batch_tokens": 64,
        "precision": "fp32",
        "threads": 1,
        "evaluation_rows": 3,
        "sae": {"latents": 96, "k": 4, "dead_after": 640},
        "data": {
            "text": [str(folder / "texts.jsonl")],
            "held_out": 0.1,
            "row_tokens": 48,
            "rows_at_once": 4,
            "window_tokens": 640,
        },
        "checkpoints": {"every": 5},
    }
    for table in ("sae", "data"):
        found[table] |= changes.pop(table, {})
    return found | changes


def recipe(folder: Path, **changes: Any) -> SaeRecipe:
    """Return the recipe."""
    return checked_recipe(SaeRecipe, keys(folder, **changes))


def silent(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
    """Report nothing."""


def train_until_killed(folder: Path, path: Path, step: int) -> None:
    """Train in this process, which kills itself after a step."""

    def tell(name: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        if name == "training" and done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train_sae(recipe(folder), path, tell)
