"""Compiled blocks under FSDP train as one process's eager ones do."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.decide.memory import Layout
from tests.modelstack.train.parallel_cases import Case, all_differences, on_ranks

pytestmark = pytest.mark.slow

ONE_BLOCK = {"num_hidden_layers": 1, "layer_types": ("full_attention",), "mlp_layer_types": ("dense",)}
COMPILED = Case("llama", Layout(shard=2), ONE_BLOCK, options={"precision": "fp32", "compile_blocks": True})


def run_compiled(rank: int) -> dict[str, Any]:
    return all_differences({"compiled": COMPILED})["compiled"]


def test_compiled_blocks_train_as_eager_ones(tmp_path_factory: pytest.TempPathFactory) -> None:
    for found in on_ranks(2, tmp_path_factory.mktemp("ranks"), run_compiled):
        assert found["loss"] < 1e-6 and found["norm"] < 1e-6 and found["weights"] < 1e-6
        assert found["moved"] > 1e-2
