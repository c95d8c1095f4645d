"""A model in a pipeline trains as it does in one process, by every schedule of torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.data.batches import Batch
from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.mesh import make_mesh
from modelstack.train.parallel.pipeline_schedules import SCHEDULES
from tests.modelstack.train.parallel_cases import MUON, make_batch, on_ranks, with_padding, with_replies
from tests.modelstack.train.pipeline_cases import (
    PipelineCase,
    all_differences,
    pipeline_state,
    with_forced_experts,
)

pytestmark = pytest.mark.slow

# Where partial sums are added in another order, gradients near 0 change by more than a rounding.
STEADY_ADAMW = OptimizerConfig(name="adamw", lr=1e-3, eps=1e-6)
TIED = {"num_hidden_layers": 4, "tie_word_embeddings": True}
ROUTED = {"seq_aux_loss_coef": 0.01, "router_z_loss_coef": 0.01, "z_loss_coef": 0.01}
DEEPSEEK_V3 = {"num_hidden_layers": 5, "first_k_dense_replace": 2}
MODELS: dict[str, dict[str, Any]] = {
    "experts with losses on routing and forced choices": {
        "family": "deepseek_v3",
        "keys": DEEPSEEK_V3,
        "own_keys": ROUTED,
        "alter": with_forced_experts,
    },
    "tied multi-token prediction": {
        "family": "deepseek_v3",
        "keys": TIED | {"num_nextn_predict_layers": 1},
        "own_keys": ROUTED | {"mtp_loss_coef": 0.3},
    },
    "few and weighted labels": {
        "family": "deepseek_v3",
        "keys": DEEPSEEK_V3 | {"num_nextn_predict_layers": 1},
        "own_keys": ROUTED | {"mtp_loss_coef": 0.3},
        "alter": with_replies,
    },
    "hyper-connections, hash routing, multi-token prediction": {
        "family": "deepseek_v4",
        "keys": {"num_nextn_predict_layers": 1},
        "own_keys": ROUTED | {"mtp_loss_coef": 0.3},
        "optimizer": STEADY_ADAMW,
    },
    "indexers, padding": {"family": "deepseek_v4", "own_keys": ROUTED, "keys": {}, "alter": with_padding},
}


def every_schedule(rank: int) -> dict[str, dict[str, float]]:
    untied = {schedule: PipelineCase(schedule) for schedule in SCHEDULES}
    return all_differences(untied | {f"{name}, tied": replace(case, keys=TIED) for name, case in untied.items()})


def every_model(rank: int) -> dict[str, Any]:
    cases = {}
    for schedule in ("1F1B", "DualPipeV"):
        for name, keys in MODELS.items():
            cases[f"{name}: {schedule}"] = PipelineCase(schedule, **keys)
        cases[f"Muon: {schedule}"] = PipelineCase(schedule, keys=TIED, optimizer=MUON)
    # Of more than 1024 tokens the head makes the logits in pieces, and again for the gradient.
    cases["a micro-batch of several pieces"] = PipelineCase("ZBVZeroBubble", alter=repeated, n_steps=1)
    found: dict[str, Any] = all_differences(cases)
    mesh = make_mesh(Layout(pp=2))
    return found | {"complaints": complaints(pipeline_state(PipelineCase("1F1B"), mesh).passes)}


def repeated(batch: Batch) -> Batch:
    """Return 35 times as many rows: 1120 tokens."""
    ids, labels, documents = (rows.repeat(35, 1) for rows in (batch.ids_BT, batch.labels_BT, batch.documents_BT))
    return Batch(ids, labels, documents, batch.position)


def complaints(passes: Any) -> list[str]:
    batch = make_batch(0)
    narrow = Batch(batch.ids_BT[:1], batch.labels_BT[:1], batch.documents_BT[:1], 0)
    forced = replace(batch, forced_experts={3: torch.zeros(32, 2, dtype=torch.int64)})
    found = []
    for batches in ([batch], [batch, narrow], [batch, forced]):
        with pytest.raises(UserError) as error:
            passes.backward(batches, 10)
        found.append(str(error.value))
    return found


def several_axes(rank: int) -> dict[str, dict[str, float]]:
    sharded, cases = Layout(pp=2, shard=2), {}
    for schedule in ("1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "DualPipeV"):
        case = PipelineCase(schedule, layout=sharded, keys=TIED, optimizer=STEADY_ADAMW)
        cases[f"FSDP: {schedule}"] = case
    cases["FSDP: Muon: ZBVZeroBubble"] = PipelineCase("ZBVZeroBubble", layout=sharded, optimizer=MUON)
    for name in list(MODELS)[:2]:
        cases[f"FSDP: {name}"] = PipelineCase("1F1B", layout=sharded, **MODELS[name])
    cases["TP: 1F1B"] = PipelineCase("1F1B", layout=Layout(pp=2, tp=2), keys=TIED, optimizer=STEADY_ADAMW)
    return all_differences(cases)


def check(found: dict[str, dict[str, float]]) -> None:
    for name, difference in found.items():
        # One process makes logits at labelled places alone: its sums are in another order than the last stage's.
        tolerance = 1e-5 if "Muon" in name or "few" in name else 1e-6
        assert max(difference.values()) < tolerance, (name, difference)


def test_every_schedule_trains_as_one_process_does(tmp_path: Path) -> None:
    for found in on_ranks(2, tmp_path, every_schedule):
        assert len(found) == 14
        check(found)


def test_every_kind_of_model_and_optimizer_trains_in_stages_as_whole(tmp_path: Path) -> None:
    for found in on_ranks(2, tmp_path, every_model):
        too_few, unequal, unlike = found.pop("complaints")
        assert "1F1B needs a micro-batch for each of its 2 stages, but a step has 1" in too_few
        assert "must have one shape, but these have [(1, 16), (2, 16)]" in unequal
        assert "force experts of different layers ([[], [3]])" in unlike
        assert len(found) == 13
        check(found)


def test_stages_that_are_sharded_or_cut_further_train_as_one_process_does(tmp_path: Path) -> None:
    for found in on_ranks(4, tmp_path, several_axes):
        assert len(found) == 8
        check(found)
