"""A run of a tiny DeepSeek-V4 by its recipe: dense steps, the indexer's warm-up, sparse training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelstack.errors import UserError
from modelstack.train.metrics import read_metrics
from modelstack.train.run.launch import launch
from modelstack.train.run.recipe import resolve
from tests.modelstack.train.run.toy_run import toy_recipe, write_text

V4: dict[str, Any] = {
    "preset": "nano-v4",
    "config": {
        "hidden_size": 32,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "layer_types": ["shared_kv_sliding_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
        "num_attention_heads": 4,
        "head_dim": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "sliding_window": 8,
        "index_n_heads": 4,
        "index_head_dim": 8,
        "index_topk": 4,
        "o_groups": 2,
        "o_lora_rank": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
    },
}


@pytest.mark.filterwarnings("ignore")
def test_a_run_logs_the_indexers_loss_from_its_warm_up_on_and_the_memory_of_its_process(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl", 60)
    values: dict[str, Any] = {"steps": 8, "schedule": {"warmup_steps": 1}, "samples": {"prompts": []}}
    recipe = toy_recipe(text, model=V4, indexer={"dense_steps": 2, "warmup_steps": 3}, **values)
    with (tmp_path / "said.txt").open("w", encoding="utf-8") as file:
        assert launch(resolve(recipe), tmp_path / "run", None, Console(file=file))
    measured = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert ["indexer_loss" in record.losses for record in measured.steps] == [False] * 2 + [True] * 6
    assert measured.memory[0].after == "start" and measured.memory[1].after == "training"
    assert all(len(record.peak_bytes) == 1 for record in measured.memory)
    assert "peak memory of the process at the start: " in (tmp_path / "said.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "qwen3 has none"),
        (V4 | {"config": V4["config"] | {"indexer_loss_coef": 0.0}}, "indexer_loss_coef is 0"),
    ],
)
def test_a_warm_up_without_an_indexer_or_without_its_loss_is_refused(model: Any, message: str) -> None:
    changes = {} if model is None else {"model": model}
    with pytest.raises(UserError, match=message):
        resolve(toy_recipe(Path("text.jsonl"), indexer={"warmup_steps": 3}, **changes))
