"""On two processes each optimizer moves a sharded model as it moves the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from tests.modelstack.train.toys import family_model

pytestmark = pytest.mark.slow

N_RANKS = 2
CONFIGS = (
    OptimizerConfig(lr=0.01, newton_schulz_dtype="float32"),
    OptimizerConfig(lr=0.01, newton_schulz_dtype="float32", nesterov=False),
    OptimizerConfig(name="adamw", lr=0.01),
)


def train(config: OptimizerConfig, family: str, *, is_sharded: bool) -> dict[str, torch.Tensor]:
    """Return the parameters after three steps on the same batches."""
    model = family_model(family)
    if is_sharded:
        mesh = init_device_mesh("cpu", (N_RANKS,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = build_optimizer(model, config)
    for step in range(3):
        ids = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(step))
        model(ids).logits_BTV.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    assert all(isinstance(p, DTensor) for p in parameters.values()) == is_sharded
    return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in parameters.items()}


def compare(rank: int, rendezvous: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=N_RANKS)
    differences = []
    for family in ("qwen3_moe", "gpt_oss"):
        for config in CONFIGS:
            whole, sharded = (train(config, family, is_sharded=sharded) for sharded in (False, True))
            assert whole.keys() == sharded.keys()
            differences.append(max((whole[name] - sharded[name]).abs().max().item() for name in whole))
    dist.destroy_process_group()
    Path(results, str(rank)).write_text(" ".join(map(str, differences)), encoding="utf-8")


def test_a_sharded_model_moves_as_the_whole_one(tmp_path: Path) -> None:
    spawn(compare, (f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=N_RANKS)
    for rank in range(N_RANKS):
        differences = [float(text) for text in (tmp_path / str(rank)).read_text(encoding="utf-8").split()]
        assert len(differences) == 2 * len(CONFIGS)
        assert max(differences) < 1e-5
