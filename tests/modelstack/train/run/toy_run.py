"""A recipe that trains in seconds, and text for it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from modelstack.recipe_file import checked_recipe
from modelstack.train.run.recipe import RunRecipe
from tests.processes import run_modelstack, start_method

TEXT = "the a old small red hen dog fox tree house sat ran saw under over near and then it was not very"
WORDS = TEXT.split()


def write_text(path: Path, n_documents: int = 300, seed: int = 0) -> Path:
    """Sentences without sense, a document a line."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n_documents):
            words = draw.choices(WORDS, k=draw.randrange(20, 90))
            file.write(json.dumps({"text": " ".join(words).capitalize() + "."}) + "\n")
    return path


def toy_values(text: Path, **changes: Any) -> dict[str, Any]:
    """A recipe's tables."""
    return {
        "name": "toy",
        "steps": 20,
        "rows": 4,
        "threads": 1,
        "device": "cpu",
        "data": {"row_tokens": 64, "text": [str(text)], "held_out": 0.05, "window_rows": 16},
        "tokenizer": {"learn": {"vocab_size": 320}},
        "model": {
            "preset": "nano-9m",
            "config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
            },
        },
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "schedule": {"warmup_steps": 4, "decay_steps": 6},
        "checkpoints": {"every": 5, "keep": 4},
        "evaluation": {"every": 10, "max_megabytes": 0.01},
        "samples": {"prompts": ["The old"], "n_tokens": 6},
        **changes,
    }


def toy_recipe(text: Path, **changes: Any) -> RunRecipe:
    """The checked recipe."""
    return checked_recipe(RunRecipe, toy_values(text, **changes))


def write_toml(path: Path, values: dict[str, Any]) -> Path:
    """Write tables as TOML: JSON's strings, numbers and lists are TOML's too."""
    lines, tables = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            tables.append(f"{key} = {_inline(value)}")
        else:
            lines.append(f"{key} = {_inline(value)}")
    path.write_text("\n".join(lines + tables) + "\n", encoding="utf-8")
    return path


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in two processes that torchrun starts anew when one dies."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3"]
    start += ["--nproc-per-node=2", "-m", "modelstack"]
    return subprocess.run(
        [*start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def torchrun_by_forks(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run torchrun's agent in this process, with workers that start in milliseconds (`modelstack.processes`).

    Raises:
        ChildFailedError: A worker failed more often than the agent starts it anew.
    """
    words = tuple(map(str, arguments))
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=3,
            start_method=start_method(),
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.ALL),
        )
        elastic_launch(config, run_modelstack)(words)
        out, err = (
            "".join(file.read_text(encoding="utf-8") for file in sorted(Path(logs).rglob(name)))
            for name in ("stdout.log", "stderr.log")
        )
    return subprocess.CompletedProcess(words, 0, out, err)
