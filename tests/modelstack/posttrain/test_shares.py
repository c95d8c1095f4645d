"""Several processes read a base by shares: with one process's bits, and with no more memory than a share needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from modelstack.decide.memory import Layout
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.resolving import resolved_lora
from modelstack.posttrain.starting_point import load_start, starting_point
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import FineTuning, fine_tune
from modelstack.train.loop import Hook
from modelstack.train.metrics import Metrics
from modelstack.train.parallel.mesh import make_mesh
from tests.modelstack.sft.toy_sft import ROW_TOKENS, toy_recipe, write_base, write_data
from tests.modelstack.train.parallel_cases import on_ranks, whole_values
from tests.modelstack.train.watched_memory import MIB, on_linux, watched

pytestmark = pytest.mark.slow

FULL: dict[str, Any] = {"train": "full", "lora": None}
ADAPTER: dict[str, Any] = {"lora": {"rank": 3, "alpha": 8}}
STARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "all weights": ("llama", "f32", FULL),
    "tied head, zero-centred norms": ("gemma3", "f32", FULL),
    "packed experts": ("qwen3_moe", "f32", FULL),
    "transposed experts, sinks": ("gpt_oss", "f32", FULL),
    "latent attention, balancing biases": ("deepseek_v3", "f32", FULL),
    "adapter": ("llama", "q8_0", ADAPTER),
    "adapter on bf16": ("llama", "q8_0", ADAPTER | {"precision": "bf16"}),
    "DoRA": ("llama", "q8_0", {"lora": {"rank": 3, "alpha": 8, "dora": True}}),
}
SIZES: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 64,
}
"""114 MB in fp32."""
LAYER = 4 * (4 * 384 * 384 + 3 * 384 * 1536)
"""Bytes of a layer's matrices in fp32: 9.4 MB."""


def differing(recipe: SftRecipe) -> list[str]:
    """Return the parameters and buffers of a start by shares that differ from those of one process."""
    start = starting_point(recipe.base)
    lora = resolved_lora(recipe, start)
    shares = load_start(recipe, lora, start, make_mesh(Layout(shard=2))).model
    whole = load_start(recipe, lora, start).model
    found, wanted = whole_values(shares), whole_values(whole)
    assert [p.requires_grad for p in shares.parameters()] == [p.requires_grad for p in whole.parameters()]
    assert found.keys() == wanted.keys()
    return [name for name, value in wanted.items() if not torch.equal(found[name], value)]


def starts(folder: Path, rank: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, (family, type_name, changes) in STARTS.items():
        for base in (folder / family / type_name / "toy.gguf", folder / family / type_name / "checkpoint"):
            found[f"{name}, {base.name}"] = differing(toy_recipe(base, folder, **changes))
    found["adapter of a stage"] = differing(toy_recipe(folder / "stage", folder, lora=None))
    return found


def test_each_process_reads_its_share_of_one_processs_bits(tmp_path: Path) -> None:
    for family, type_name in {(family, type_name) for family, type_name, _ in STARTS.values()}:
        write_base(tmp_path / family / type_name, family, type_name)
    write_data(tmp_path / "examples")
    recipe = toy_recipe(tmp_path / "llama" / "f32" / "toy.gguf", tmp_path / "examples", steps=2)
    assert fine_tune(recipe, tmp_path / "stage", Console(quiet=True))
    for of_rank in on_ranks(2, tmp_path, partial(starts, tmp_path)):
        assert len(of_rank) == 2 * len(STARTS) + 1
        assert all(names == [] for names in of_rank.values()), of_rank


class Ready(Exception):
    """Ends a training before its first step."""


class Started(FineTuning):
    """A fine-tuning that ends when its rows, model and optimizer are there."""

    def hooks(self, metrics: Metrics) -> dict[str, Hook]:
        raise Ready(self.model)


def memory_of_a_start(folder: Path, base: str, rank: int) -> dict[str, int]:
    data = {"training": [str(folder / "examples" / "train.jsonl")], "row_tokens": ROW_TOKENS}

    def peak_and_sizes(size: str) -> dict[str, int]:
        recipe = toy_recipe(folder / size / base, folder, data=data, rows=4, **FULL)
        with watched() as peak, pytest.raises(Ready) as ready:
            run_training(Started, recipe, folder / f"run-{size}", Console(quiet=True))
        parameters = list(ready.value.args[0].parameters())
        share = sum(parameter.to_local().nbytes for parameter in parameters)
        return {"peak": peak[0], "share": share, "whole": sum(parameter.nbytes for parameter in parameters)}

    peak_and_sizes("small")  # what torch makes once is made
    return peak_and_sizes("big")


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    write_base(folder / "small")
    write_base(folder / "big", type_name="q8_0", **SIZES)
    write_data(folder / "examples")
    return folder


@on_linux
@pytest.mark.parametrize("base", ["checkpoint", "toy.gguf"])
def test_a_rank_of_two_needs_its_share_and_a_layer_to_start(two_sizes: Path, tmp_path: Path, base: str) -> None:
    for name in ("small", "big", "examples"):
        (tmp_path / name).symlink_to(two_sizes / name)
    for of_rank in on_ranks(2, tmp_path, partial(memory_of_a_start, tmp_path, base)):
        assert of_rank["whole"] > 105 * MIB and of_rank["share"] <= 0.51 * of_rank["whole"]
        assert 0.9 * of_rank["share"] < of_rank["peak"] <= 1.3 * (of_rank["share"] + LAYER), of_rank
