"""On two processes, sharded or cut, a model is trained as on one: the same losses, gradient norms and weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from modelstack.decide.memory import Layout
from modelstack.stability.agreement import Ranks
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.parallel.mesh import ParallelConfig, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.step import TrainState, train_step
from tests.modelstack.train.parallel_cases import (
    ADAMW,
    MUON,
    Case,
    all_differences,
    make_batch,
    on_ranks,
    toy,
    whole_values,
    with_padding,
    with_replies,
)

pytestmark = pytest.mark.slow

SHARD, TP = Layout(shard=2), Layout(tp=2)
FULL, SELECTIVE = (Layout(shard=2, checkpointing=kind) for kind in ("full", "selective"))
ROUTED = {"seq_aux_loss_coef": 0.01, "router_z_loss_coef": 0.01}
BIASED = ROUTED | {
    "score_correction_bias": True,
    "z_loss_coef": 0.001,
    "num_nextn_predict_layers": 1,
    "mtp_loss_coef": 0.3,
}
OLMO3_BLOCKS = {
    "num_hidden_layers": 2,
    "layer_types": ("sliding_attention", "full_attention"),
    "mlp_layer_types": ("dense", "dense"),
}
INDEXED_BLOCKS = {
    "num_hidden_layers": 2,
    "layer_types": ("compressed_sparse_attention", "heavily_compressed_attention"),
    "mlp_layer_types": ("hash_moe", "moe"),
}
FP32 = {
    "fsdp": Case("llama", SHARD),
    "fsdp, tied head": Case("qwen3", SHARD),
    "fsdp, blocks kept gathered": Case(
        "llama", SHARD, options={"precision": "fp32", "reshard_after_forward": False}
    ),
    "fsdp, micro-batches": Case("llama", SHARD, micro_batches=3),
    "fsdp, micro-batches, gradients held whole": Case("llama", SHARD, micro_batches=3, hold_whole_gradients=True),
    "fsdp, full checkpointing": Case("llama", FULL),
    "fsdp, selective checkpointing": Case("qwen3", SELECTIVE),
    "fsdp, experts, losses on routing": Case("qwen3_moe", SHARD, ROUTED),
    "fsdp, interleaved experts with biases and sinks": Case("gpt_oss", SHARD),
    "fsdp, balanced experts, all losses": Case("deepseek_v3", SHARD, BIASED, micro_batches=2),
    "fsdp, balanced experts, full checkpointing": Case("deepseek_v3", FULL, BIASED, micro_batches=2),
    "fsdp, experts, selective checkpointing": Case("deepseek_v3", SELECTIVE, BIASED),
    "fsdp, hyper-connections and hash routing": Case("deepseek_v4", FULL),
    "fsdp, dense stage of indexers": Case("deepseek_v4", SHARD, INDEXED_BLOCKS, index_stage="dense"),
    "fsdp, warm-up of indexers, full checkpointing": Case(
        "deepseek_v4", FULL, INDEXED_BLOCKS, index_stage="warm_up"
    ),
    "fsdp, padding": Case("deepseek_v4", SHARD, ROUTED, micro_batches=2, alter=with_padding),
    "tp": Case("llama", TP),
    "tp, tied head, norms of heads": Case("qwen3", TP, micro_batches=2),
    "tp, tied head, biases of queries, keys and values": Case("qwen2", TP),
    "tp, norms of projections after the block": Case("olmo3", TP, OLMO3_BLOCKS),
    "tp, windows, norms around the block": Case("gemma3_text", TP),
    "tp, biases, gate, alibi": Case(
        "llama",
        TP,
        {
            "attention_bias": True,
            "attention_out_bias": True,
            "mlp_bias": True,
            "attn_output_gate": True,
            "position_embedding": "alibi",
        },
    ),
    "fsdp, few and weighted labels": Case("llama", SHARD, micro_batches=2, alter=with_replies),
    "tp, few and weighted labels": Case("llama", TP, alter=with_replies),
    "tp, full checkpointing": Case("qwen3", Layout(tp=2, checkpointing="full")),
    "tp, selective checkpointing": Case("qwen3", Layout(tp=2, checkpointing="selective")),
}
BY_MUON = {
    "fsdp, muon": Case("qwen3_moe", SHARD, optimizer=MUON),
    "tp, muon": Case("qwen3", TP, optimizer=MUON),
}
BF16 = {"fsdp, bf16": Case("llama", SHARD, options={"precision": "bf16"}, micro_batches=2)}


def rejected_steps() -> dict[str, Any]:
    """A run whose gradient one rank spoils, under a guard that only the ranks together know to be right."""
    mesh = make_mesh(SHARD)
    model = toy(Case("llama", SHARD))
    parallelize(model, mesh, ParallelConfig(layout=SHARD, precision="fp32"))
    state = TrainState(model, build_optimizer(model, ADAMW), ShardedPasses(model, mesh))
    guard = Guard(GuardConfig(), Ranks.of_run().worst)

    def judge(loss: float, norm: float) -> str:
        return guard.judge(loss, norm).reason

    def one_step(number: int) -> tuple[str, float]:
        before = whole_values(model)
        report = train_step(state, [make_batch(2 * number + mesh.data_rank)], judge=judge)
        after = whole_values(model)
        return report.rejected, max((after[name] - before[name]).abs().max().item() for name in before)

    outcome: dict[str, Any] = {"sound": one_step(0)}

    def spoil(module: torch.nn.Module, inputs: Any, y_BTD: torch.Tensor) -> torch.Tensor:
        return y_BTD * (math.nan if mesh.data_rank else 1.0)

    handle = model.model.layers[0].register_forward_hook(spoil)
    outcome["nan on rank 1"] = one_step(1)
    handle.remove()
    own = mesh.data_rank  # a verdict that the ranks do not share by themselves
    report = train_step(
        state, [make_batch(own)], judge=lambda loss, norm: guard.judge(math.inf if own else loss, norm).reason
    )
    outcome["verdict of rank 1"] = (report.rejected, 0.0)
    outcome["sound again"] = one_step(2)
    outcome["steps"] = state.step
    return outcome


def evaluated_between_steps() -> float:
    """How far weights differ after two steps with and without a pass without gradients between them."""
    ends = []
    for is_evaluated in (False, True):
        mesh = make_mesh(SHARD)
        model = toy(Case("llama", SHARD))
        parallelize(model, mesh, ParallelConfig(layout=SHARD, precision="fp32"))
        state = TrainState(model, build_optimizer(model, ADAMW), ShardedPasses(model, mesh))
        for number in range(2):
            if is_evaluated:
                with torch.no_grad():
                    model.logits(model(make_batch(9).ids_BT, with_logits=False).hidden_BTD)
            train_step(state, [make_batch(2 * number + mesh.data_rank)])
        ends.append(whole_values(model))
    return max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0])


def run_all(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = all_differences(FP32 | BY_MUON | BF16)
    return found | {"rejected": rejected_steps(), "evaluated": evaluated_between_steps()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), run_all)


@pytest.mark.parametrize("name", FP32)
def test_a_layout_trains_as_one_process_does(results: list[dict[str, Any]], name: str) -> None:
    for of_rank in results:
        found = of_rank[name]
        assert found["loss"] < 1e-6 and found["norm"] < 1e-6 and found["weights"] < 1e-6
        assert found["moved"] > 1e-2


@pytest.mark.parametrize("name", BY_MUON)
def test_muon_moves_spread_matrices_as_whole_ones(results: list[dict[str, Any]], name: str) -> None:
    for of_rank in results:
        found = of_rank[name]
        assert found["loss"] < 1e-5 and found["norm"] < 1e-5 and found["weights"] < 1e-5
        assert found["moved"] > 1e-2


def test_bf16_under_fsdp_is_bf16_with_fp32_masters(results: list[dict[str, Any]]) -> None:
    found = results[0]["fsdp, bf16"]
    assert found["loss"] < 1e-3 and found["norm"] < 1e-2
    assert found["weights"] < found["moved"] / 2


def test_a_rejected_step_leaves_the_weights_of_all_ranks(results: list[dict[str, Any]]) -> None:
    for of_rank in results:
        outcome = of_rank["rejected"]
        assert outcome["sound"][0] == outcome["sound again"][0] == ""
        assert outcome["sound"][1] > 1e-3 and outcome["sound again"][1] > 1e-3
        assert outcome["steps"] == 4


def test_a_nan_on_one_rank_rejects_the_step_on_all(results: list[dict[str, Any]]) -> None:
    for of_rank in results:
        reason, moved = of_rank["rejected"]["nan on rank 1"]
        assert reason == "loss is nan" and moved == 0.0


def test_a_verdict_of_one_rank_holds_for_all(results: list[dict[str, Any]]) -> None:
    reasons = [of_rank["rejected"]["verdict of rank 1"][0] for of_rank in results]
    assert reasons == ["another rank rejected the step", "loss is inf"]


def test_a_pass_without_gradients_between_steps_changes_nothing(results: list[dict[str, Any]]) -> None:
    assert results[0]["evaluated"] == 0.0
