"""Several processes start with one process's weights, bit for bit, and each makes its share only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.presets.registry import published
from modelstack.decide.memory import Layout
from modelstack.stability.sharded_checkpoints import ShardedStore
from modelstack.train.parallel.mesh import make_mesh
from modelstack.train.parallel.pipeline import Stage
from modelstack.train.run.recipe import Resolved, resolve
from modelstack.train.run.spread import spread
from modelstack.train.step import TrainState, train_step
from tests.modelstack.train.parallel_cases import make_batch, on_ranks, whole_values
from tests.modelstack.train.run.toy_run import toy_recipe
from tests.modelstack.train.toys import family_config
from tests.modelstack.train.watched_memory import MIB, on_linux, watched

pytestmark = pytest.mark.slow

SEED = 5
STARTS: dict[str, tuple[str, Layout, dict[str, Any]]] = {
    "fsdp": ("llama", Layout(shard=2), {}),
    "fsdp, tied head, zero-centred norms": ("gemma3_text", Layout(shard=2), {"tie_word_embeddings": True}),
    "fsdp, uneven shares": ("llama", Layout(shard=2), {"vocab_size": 133}),
    "fsdp, balancing biases, full checkpointing": (
        "deepseek_v3",
        Layout(shard=2, checkpointing="full"),
        {"score_correction_bias": True, "num_nextn_predict_layers": 1},
    ),
    "fsdp, hash tables, hyper-connections, sinks": ("deepseek_v4", Layout(shard=2), {}),
    "experts on two ranks": ("qwen3_moe", Layout(shard=2, ep=2), {}),
    "interleaved experts on two ranks": ("gpt_oss", Layout(shard=2, ep=2), {}),
    "tp, biases, tied head": ("qwen2", Layout(tp=2), {"tie_word_embeddings": True}),
    "tp, norms of projections": ("olmo3", Layout(tp=2), {}),
    "pipeline, tied head": ("llama", Layout(pp=2), {"tie_word_embeddings": True}),
}
WITH_TP = {"fsdp and tp": ("qwen3", Layout(shard=2, tp=2), {"vocab_size": 132})}
BIG = published(
    "nano-9m",
    vocab_size=512,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=64,
)
"""203 MB in fp32."""
SIX_LAYERS = BIG.with_(
    num_hidden_layers=6, layer_types=BIG.layer_types[:6], mlp_layer_types=BIG.mlp_layer_types[:6]
)
"""Its weights and their moments: 305 MB."""
LAYER = 4 * (4 * 512 * 512 + 3 * 512 * 2048)
"""Bytes of a layer's matrices in fp32: 17 MB."""


def _resolved(layout: Layout, **keys: Any) -> Resolved:
    parallel = {"layout": layout.model_dump(exclude_defaults=True)}
    return resolve(toy_recipe(Path("no.jsonl"), seed=SEED, rows=8, parallel=parallel, **keys))


def _config(start: tuple[str, Layout, dict[str, Any]]) -> ModelConfig:
    family, _, keys = start
    return family_config(family).with_(**keys)


def _started(start: tuple[str, Layout, dict[str, Any]]) -> TrainState:
    layout = start[1]
    return spread(_config(start), _resolved(layout, micro_batches=2), make_mesh(layout), None)


def _differing(start: tuple[str, Layout, dict[str, Any]]) -> list[str]:
    """Return the parameters and buffers whose bits are not those of one process."""
    found = whole_values(_started(start).model)
    wanted = initialise(CausalLM(_config(start)), SEED).state_dict()
    assert found
    return [name for name, value in found.items() if not torch.equal(value, wanted[name])]


def _missing(start: tuple[str, Layout, dict[str, Any]]) -> list[str]:
    """Return the parameters that the ranks lack, where each has the whole model's layers."""
    names = {name for name, _ in CausalLM(_config(start)).named_parameters()}
    return sorted(names - set(whole_values(_started(start).model)))


def starts_on_two(rank: int) -> dict[str, list[str]]:
    differing = {name: _differing(start) for name, start in STARTS.items()}
    return differing | {f"{n}: missing": _missing(s) for n, s in STARTS.items() if s[1].pp == 1}


def starts_on_four(rank: int) -> dict[str, list[str]]:
    return {name: _differing(start) for name, start in WITH_TP.items()}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), starts_on_two)


@pytest.mark.parametrize("name", STARTS)
def test_a_start_on_two_processes_has_one_processs_bits(on_two: list[dict[str, list[str]]], name: str) -> None:
    for of_rank in on_two:
        assert of_rank[name] == [] == of_rank.get(f"{name}: missing", [])


def test_a_matrix_that_is_cut_twice_starts_with_one_processs_bits(tmp_path: Path) -> None:
    for of_rank in on_ranks(4, tmp_path, starts_on_four):
        assert all(differing == [] for differing in of_rank.values()), of_rank


def memory_of_a_start(rank: int) -> dict[str, int]:
    layout = Layout(shard=2)
    _started(STARTS["fsdp"])  # what torch makes once is made
    mesh, resolved = make_mesh(layout), _resolved(layout)
    with watched() as peak:
        state = spread(BIG, resolved, mesh, None)
    share = sum(parameter.to_local().nbytes for parameter in state.model.parameters())  # pyright: ignore
    whole = sum(parameter.nbytes for parameter in state.model.parameters())
    return {"peak": peak[0], "share": share, "whole": whole}


@on_linux
def test_a_rank_of_two_needs_its_share_and_a_layer_to_start(tmp_path: Path) -> None:
    for of_rank in on_ranks(2, tmp_path, memory_of_a_start):
        assert of_rank["whole"] > 190 * MIB and of_rank["share"] <= 0.51 * of_rank["whole"]
        assert of_rank["share"] < of_rank["peak"] <= 1.3 * (of_rank["share"] + LAYER), of_rank


def memory_of_a_resume(folder: Path, rank: int) -> dict[str, Any]:
    layout = Layout(shard=2)
    mesh, resolved = make_mesh(layout), _resolved(layout)
    state = spread(SIX_LAYERS, resolved, mesh, None)
    store = ShardedStore(folder)
    train_step(state, [make_batch(mesh.data_rank)])
    store.save(1, {"run": {"train": state.state_dict()}})
    saved = [parameter.to_local().clone() for parameter in state.model.parameters()]  # pyright: ignore
    train_step(state, [make_batch(mesh.data_rank)])
    with watched() as peak:
        loaded = store.load({"run": {"train": state.state_dict()}})
        assert loaded is not None
        state.load_state_dict(loaded.state["run"]["train"])
    now = [parameter.to_local() for parameter in state.model.parameters()]  # pyright: ignore
    share = 3 * sum(tensor.nbytes for tensor in saved)  # weights and AdamW's two moments
    return {"peak": peak[0], "share": share, "same": all(map(torch.equal, now, saved))}


@on_linux
def test_a_rank_of_two_resumes_with_its_share_of_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for of_rank in on_ranks(2, tmp_path, partial(memory_of_a_resume, folder)):
        assert of_rank["same"]
        assert of_rank["peak"] <= 1.3 * (of_rank["share"] + LAYER), of_rank


def test_a_stage_of_a_pipeline_is_initialised_as_the_whole_model_is() -> None:
    config = family_config("llama", num_hidden_layers=4)
    stage = initialise(Stage(config, 1, [range(2), range(2, 4)]), SEED)
    whole = initialise(CausalLM(config), SEED).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in stage.state_dict().items())
