"""On four processes, shards times tensor parallelism and replicas of shards are trained as one process is."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.decide.memory import Layout
from tests.modelstack.train.parallel_cases import MUON, Case, all_differences, on_ranks

pytestmark = pytest.mark.slow

GRID, REPLICAS = Layout(shard=2, tp=2), Layout(replicate=2, shard=2)
FP32 = {
    "shards x tp, tied head, micro-batches": Case("qwen3", GRID, micro_batches=2),
    "shards x tp, norms of projections, full checkpointing": Case(
        "olmo3", Layout(shard=2, tp=2, checkpointing="full")
    ),
    "replicas x shards, micro-batches": Case("llama", REPLICAS, micro_batches=3),
    "replicas x shards, gradients held whole": Case("llama", REPLICAS, micro_batches=2, hold_whole_gradients=True),
    "replicas x tp": Case("llama", Layout(replicate=2, tp=2), micro_batches=2),
    "replicas x shards, experts": Case("qwen3_moe", REPLICAS, {"seq_aux_loss_coef": 0.01}),
}
BY_MUON = {
    "shards x tp, muon": Case("qwen3", GRID, optimizer=MUON),
    "replicas x shards, experts, muon": Case("qwen3_moe", REPLICAS, optimizer=MUON),
}


def run_all(rank: int) -> dict[str, Any]:
    return all_differences(FP32 | BY_MUON)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(4, tmp_path_factory.mktemp("ranks"), run_all)


@pytest.mark.parametrize("name", FP32 | BY_MUON)
def test_a_grid_of_ranks_trains_as_one_process_does(results: list[dict[str, Any]], name: str) -> None:
    tolerance = 1e-6 if name in FP32 else 1e-5
    for of_rank in results:
        found = of_rank[name]
        assert found["loss"] < tolerance and found["norm"] < tolerance and found["weights"] < tolerance
        assert found["moved"] > 1e-2
