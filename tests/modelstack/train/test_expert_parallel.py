"""Experts on several ranks: losses, gradient norms and weights are one process's, whoever gets the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, Shard

from modelstack.architecture.moe.layer import MoE
from modelstack.data.batches import Batch
from modelstack.decide.memory import Layout
from modelstack.errors import UserError
from modelstack.stability.anticipatory import AnticipatoryLoader, chosen_now
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.parallel.experts import spread
from modelstack.train.parallel.mesh import ParallelConfig, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.step import TrainState, local_state, train_step
from tests.modelstack.train import parallel_cases, pipeline_cases
from tests.modelstack.train.parallel_cases import ADAMW, MUON, Case, make_batch, on_ranks, toy, whole_values
from tests.modelstack.train.pipeline_cases import PipelineCase

pytestmark = pytest.mark.slow

ALONE = Layout(shard=2, ep=2)
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
BALANCED = {
    "scoring_func": "sigmoid",
    "score_correction_bias": True,
    "seq_aux_loss_coef": 1e-2,
    "num_nextn_predict_layers": 1,
    "mtp_loss_coef": 0.3,
}
TWO = {
    "packed": Case("qwen3_moe", ALONE),
    "interleaved, with biases": Case("gpt_oss", ALONE),
    "Muon": Case("qwen3_moe", ALONE, optimizer=MUON),
    "balancing and multi-token prediction": Case("qwen3_moe", ALONE, BALANCED),
}
FOUR = {
    "experts on two ranks, cut again over two": Case("qwen3_moe", Layout(shard=4, ep=2), BALANCED),
    "interleaved": Case("gpt_oss", Layout(shard=4, ep=2)),
    "Muon": Case("qwen3_moe", Layout(shard=4, ep=2), optimizer=MUON),
    "replicas": Case("qwen3_moe", Layout(replicate=2, shard=2, ep=2), micro_batches=2),
    "experts on all ranks, computed twice": Case("qwen3_moe", Layout(shard=4, ep=4, checkpointing="full")),
}
STAGES = Layout(pp=2, shard=2, ep=2)
PIPELINES = {
    schedule: PipelineCase(schedule, layout=STAGES, family="qwen3_moe", optimizer=ADAMW)
    for schedule in ("1F1B", "ZBVZeroBubble")
}
TOLERANCE = {"Muon": 1e-5}
"""Weights of the others: 1e-6."""


def skewed(case: Case, *experts: int) -> Case:
    """Return the case with batches whose tokens all go to the same experts."""
    layers = [module.layer for module in toy(case).modules() if isinstance(module, MoE)]
    return replace(case, alter=partial(forced, experts, layers))


def forced(experts: tuple[int, ...], layers: list[int], batch: Batch) -> Batch:
    forced_Nk = torch.tensor(experts).expand(batch.n_tokens, -1)
    return replace(batch, forced_experts=dict.fromkeys(layers, forced_Nk))


def spread_toy(case: Case) -> torch.nn.Module:
    return parallelize(toy(case), make_mesh(case.layout), ParallelConfig(layout=case.layout, **case.options))


class Numbered:
    """A loader of the cases' batches: a rank's own ones."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world, self.n_given = rank, world, 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.n_given += 1
            yield make_batch((self.n_given - 1) * self.world + self.rank)

    def state_dict(self) -> dict[str, Any]:
        return {"n_given": self.n_given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_given = state["n_given"]


def routed_ahead(case: Case) -> dict[str, Any]:
    """Train with experts chosen two steps ahead, in one process and spread; return how far apart the two are."""
    mesh, delay = make_mesh(case.layout), 2
    whole, model = toy(case), toy(case)
    parallelize(model, mesh, ParallelConfig(layout=case.layout, **case.options))
    alone = AnticipatoryLoader(Numbered(0, 1), lambda batch: chosen_now(whole, batch), 2 * delay)
    own = AnticipatoryLoader(
        Numbered(mesh.data_rank, 2),
        lambda batch: chosen_now(model, batch),
        delay,
        rank=mesh.data_rank,
        world=2,
        gather=mesh.gather_data,
    )
    state = local_state(whole, build_optimizer(whole, case.optimizer))
    spread_state = TrainState(model, build_optimizer(model, case.optimizer), ShardedPasses(model, mesh))
    apart = 0.0
    for loader in (alone, own):
        loader.switch_on()
    for _ in range(4):
        expected = train_step(state, [next(alone), next(alone)])
        apart = max(apart, abs(train_step(spread_state, [next(own)]).losses["total"] - expected.losses["total"]))
    choices, expected_choices = own.state_dict()["choices"], alone.state_dict()["choices"]
    same = [torch.equal(choices[layer], expected_choices[layer]) for layer in expected_choices]
    return {"loss": apart, "choices": len(same) > 0 and all(same)}


def on_two(folder: str, rank: int) -> dict[str, Any]:
    # The toys have 8 experts, 2 a token: rank 0 has 0 to 3, rank 1 has 4 to 7.
    uneven = {
        "all tokens to the first rank": skewed(TWO["packed"], 0, 1),
        "all tokens to the last rank": skewed(TWO["interleaved, with biases"], 7, 6),
    }
    found: dict[str, Any] = parallel_cases.all_differences(TWO | uneven)
    model = spread_toy(TWO["packed"])
    weight = model.get_parameter(GATE_UP)
    assert isinstance(weight, DTensor)
    found["placements"] = [str(placement) for placement in weight.placements]
    found["shapes"] = [list(weight.shape), list(weight.to_local().shape)]
    found["names"] = sorted(model.state_dict())
    save(model.state_dict(), checkpoint_id=folder)
    found["routed in advance"] = routed_ahead(TWO["packed"])
    with pytest.raises(UserError) as refused:
        spread(toy(Case("qwen3_moe", ALONE)).get_submodule("model.layers.1.mlp.experts"), make_mesh(ALONE).ep, 5)
    found["refused"] = str(refused.value)
    return found


def on_four(folder: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = parallel_cases.all_differences(FOUR)
    case = FOUR["experts on two ranks, cut again over two"]
    model = spread_toy(replace(case, changes={}))
    weight = model.get_parameter(GATE_UP)
    assert isinstance(weight, DTensor)
    found["placements"] = [str(placement) for placement in weight.placements]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    state = model.state_dict()
    load(state, checkpoint_id=folder)
    model.load_state_dict(state)
    expected = dict(toy(replace(case, changes={})).named_parameters())
    values = whole_values(model)
    found["resharded"] = all(torch.equal(values[name], value) for name, value in expected.items())
    return found


def test_experts_on_two_and_on_four_ranks_train_as_on_one(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint")
    (tmp_path / "two").mkdir()
    (tmp_path / "four").mkdir()
    two = on_ranks(2, tmp_path / "two", partial(on_two, checkpoint))
    for found in two:
        hold_to_one_process(found, [*TWO, "all tokens to the first rank", "all tokens to the last rank"])
        assert found["placements"] == [str(Shard(1)), str(Shard(0))]
        whole, own = found["shapes"]
        assert own == [whole[0] // 2, *whole[1:]]
        assert found["names"] == sorted(toy(TWO["packed"]).state_dict())
        assert found["routed in advance"]["loss"] < 1e-6
        assert found["routed in advance"]["choices"]
        assert "cannot be cut into 2 along its experts and 5" in found["refused"]

    alone = {name: torch.zeros_like(value) for name, value in toy(TWO["packed"]).state_dict().items()}
    with pytest.warns(UserWarning, match="load in a single process"):
        load(alone, checkpoint_id=checkpoint, no_dist=True)
    assert_equal(alone, toy(TWO["packed"]).state_dict())

    for found in on_ranks(4, tmp_path / "four", partial(on_four, checkpoint)):
        hold_to_one_process(found, list(FOUR))
        assert found["placements"] == [str(Shard(1)), str(Shard(0))]
        assert found["resharded"]


def in_stages(rank: int) -> dict[str, dict[str, float]]:
    return pipeline_cases.all_differences(PIPELINES)


def test_experts_on_two_ranks_of_each_pipeline_stage_train_as_on_one(tmp_path: Path) -> None:
    for found in on_ranks(4, tmp_path, in_stages):
        assert found.keys() == PIPELINES.keys()
        for schedule, difference in found.items():
            assert max(difference.values()) < 1e-6, (schedule, difference)


def hold_to_one_process(found: dict[str, dict[str, float]], names: list[str]) -> None:
    for name in names:
        assert found[name]["loss"] < 1e-6, name
        assert found[name]["norm"] < 1e-6, name
        assert found[name]["weights"] < TOLERANCE.get(name, 1e-6), name
        assert found[name]["moved"] > 1e-3, name


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
