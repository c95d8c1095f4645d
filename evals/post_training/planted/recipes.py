"""Training recipes of all stages.

Every stage trains all weights in fp32 on one thread, so results are bitwise equal.

Rates, lengths and coefficients were chosen on the development prompts with a separate seed (`TUNED_WITH`), by the
planted judge's win rate. The final prompts and the seeds of the table were not used. `README.md` lists all trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TUNED_WITH = 100
"""Seed of all tuning trials."""
MAX_TOKENS = 72
"""Maximum tokens of a reply; the longest careless reply has about 50."""
N_EXAMPLES, N_SAMPLES = 4000, 6
"""Number of careless replies for the base, and of its replies per training prompt from which pairs are made."""

MODEL: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
VOCAB_SIZE = 512

METHODS = ("dpo", "simpo", "orpo", "kto", "ppo")
"""Methods in the order of the table."""

_FULL: Mapping[str, Any] = {
    "train": "full",
    "precision": "fp32",
    "device": "cpu",
    "threads": 1,
    "micro_batches": 1,
    "checkpoints": {"every": 50, "keep": 1},
    "guard": {"min_loss_rise": 1.0},
}
_ON_PAIRS: Mapping[str, Any] = {"rows": 32, "epochs": 1.0, "max_validation": 200}

_MUON: Mapping[str, Any] = {"name": "muon", "update_rms": 0.2, "newton_schulz": "quintic_5"}

BASE: Mapping[str, Any] = {
    "rows": 32,
    "epochs": 3.0,
    "optimizer": {**_MUON, "lr": 1e-2, "muon_lr": 1e-2, "weight_decay": 0.01},
    "evaluation": {"every": 100},
}
REWARD: Mapping[str, Any] = {**_ON_PAIRS, "epochs": 2.0, "optimizer": {**_MUON, "lr": 1e-3, "muon_lr": 5e-3}}
PREFER: Mapping[str, Mapping[str, Any]] = {
    "dpo": {**_ON_PAIRS, "method": {"name": "direct"}, "optimizer": {"lr": 3e-4}},
    "simpo": {**_ON_PAIRS, "method": {"name": "simpo"}, "optimizer": {"lr": 3e-4}},
    "orpo": {**_ON_PAIRS, "method": {"name": "orpo", "ratio_coefficient": 1.0}, "optimizer": {"lr": 1e-3}},
    "kto": {**_ON_PAIRS, "method": {"name": "kto"}, "optimizer": {"lr": 1e-4}},
}
PPO: Mapping[str, Any] = {
    "steps": 96,
    "rows": 64,
    "passes": 2,
    "sampling": {"prompts": 256, "group": 1, "max_tokens": MAX_TOKENS, "truncation_penalty": 2.0},
    "optimizer": {"lr": 5e-4},
    "critic": {"lr": 2e-3},
    "kl": {"coefficient": 0.2},
    "max_validation": 50,
}


def base_values(folder: Path, seed: int) -> dict[str, Any]:
    """Return the recipe of the base: careless replies, from random weights."""
    files = {
        "training": [str(folder / "careless.jsonl")],
        "validation": [str(folder / "careless-held-back.jsonl")],
        "row_tokens": 128,
        "layout": "padded",
    }
    return _with(BASE, folder, "base", str(folder / "scratch"), files, seed)


def reward_values(folder: Path, seed: int) -> dict[str, Any]:
    """Return the recipe of the reward model, which starts from the base."""
    return _with(REWARD, folder, "reward", str(folder / "base"), _pairs(folder), seed)


def prefer_values(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the recipe of a method on pairs."""
    return _with(PREFER[name], folder, name, str(folder / "base"), _pairs(folder), seed)


def ppo_values(folder: Path, seed: int) -> dict[str, Any]:
    """Return the recipe of PPO against the reward model."""
    files = {"training": [str(folder / "tasks.jsonl")], "validation": [str(folder / "tasks-held-back.jsonl")]}
    values = _with(PPO, folder, "ppo", str(folder / "base"), files, seed)
    return values | {"reward": str(folder / "reward")}


def _pairs(folder: Path) -> dict[str, Any]:
    return {
        "training": [str(folder / "pairs.jsonl")],
        "validation": [str(folder / "pairs-held-back.jsonl")],
        "row_tokens": 192,
    }


def _with(
    table: Mapping[str, Any], folder: Path, name: str, base: str, data: dict[str, Any], seed: int
) -> dict[str, Any]:
    return {**_FULL, **table, "name": f"{folder.name}-{name}", "base": base, "data": data, "seed": seed}
