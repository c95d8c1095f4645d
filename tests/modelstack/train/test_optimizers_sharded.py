"""On two processes each optimizer moves a sharded model as it moves the whole one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modelstack.architecture.decoder import CausalLM
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from tests.modelstack.train.toys import family_model
from tests.processes import run_on_ranks

pytestmark = pytest.mark.slow

N_RANKS = 2
PARTS = ("model_state_dict", "optim_state_dict")
CONFIGS = (
    OptimizerConfig(lr=0.01, newton_schulz_dtype="float32"),
    OptimizerConfig(lr=0.01, newton_schulz_dtype="float32", nesterov=False),
    OptimizerConfig(name="adamw", lr=0.01),
)


def train(config: OptimizerConfig, family: str, *, is_sharded: bool) -> dict[str, torch.Tensor]:
    """Return the parameters after three steps on the same batches."""
    model = family_model(family)
    if is_sharded:
        shard(model)
    take_steps(model, build_optimizer(model, config), range(3))
    assert all(isinstance(p, DTensor) for p in model.parameters()) == is_sharded
    return whole_parameters(model)


def shard(model: CausalLM) -> None:
    mesh = init_device_mesh("cpu", (N_RANKS,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def take_steps(model: CausalLM, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(step))
        model(ids).logits_BTV.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def whole_parameters(model: CausalLM) -> dict[str, torch.Tensor]:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in parameters.items()}


def resumed_is_bit_equal(folder: str) -> bool:
    """Whether a run that went through a distributed checkpoint ends where the uninterrupted one does."""
    model, resumed = family_model("gpt_oss"), family_model("gpt_oss", seed=1)
    shard(model)
    shard(resumed)
    optimizer, resumed_optimizer = build_optimizer(model, CONFIGS[0]), build_optimizer(resumed, CONFIGS[0])
    take_steps(model, optimizer, range(2))
    save(dict(zip(PARTS, get_state_dict(model, optimizer), strict=True)), checkpoint_id=folder)
    state: dict[str, Any] = dict(zip(PARTS, get_state_dict(resumed, resumed_optimizer), strict=True))
    load(state, checkpoint_id=folder)
    set_state_dict(resumed, resumed_optimizer, **state)
    take_steps(model, optimizer, range(2, 4))
    take_steps(resumed, resumed_optimizer, range(2, 4))
    expected = whole_parameters(model)
    return all(torch.equal(value, expected[name]) for name, value in whole_parameters(resumed).items())


def compare(rank: int, rendezvous: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=N_RANKS)
    differences = []
    for family in ("qwen3_moe", "gpt_oss"):
        for config in CONFIGS:
            whole, sharded = (train(config, family, is_sharded=sharded) for sharded in (False, True))
            assert whole.keys() == sharded.keys()
            differences.append(max((whole[name] - sharded[name]).abs().max().item() for name in whole))
    is_resumed = resumed_is_bit_equal(f"{results}/checkpoint")
    Path(results, str(rank)).write_text(json.dumps([differences, is_resumed]), encoding="utf-8")
    # Once in ten runs gloo's threads abort a process on its way out ("terminate called without an active
    # exception"). What is tested is written by now, so the process leaves without a teardown.
    os._exit(0)


def test_a_sharded_model_moves_as_the_whole_one_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    run_on_ranks(compare, (f"file://{tmp_path}/rendezvous", str(tmp_path)), N_RANKS)
    for rank in range(N_RANKS):
        differences, is_resumed = json.loads((tmp_path / str(rank)).read_text(encoding="utf-8"))
        assert len(differences) == 2 * len(CONFIGS)
        assert max(differences) < 1e-5
        assert is_resumed
