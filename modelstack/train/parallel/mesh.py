"""The mesh of ranks for a layout, and the groups in which its parts communicate.

`decide.memory.Layout` defines the sizes; this file creates torch's `DeviceMesh` with the axes in the order pp,
replicate, shard, tp. The last axis has neighbouring ranks. Tensor parallelism, which communicates most, therefore
stays inside a machine, and pipeline stages, which communicate least, are far apart. Expert parallelism uses the
ranks of the shard axis (GShard, arXiv 2006.16668, placed as in DeepSpeed-MoE and torchtitan), split into shard /
ep groups of ep neighbours.

Ranks along replicate and shard have different batches; ranks along tp and pp have the same one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from modelstack.decide.memory import Layout
from modelstack.errors import UserError

AXES = ("pp", "replicate", "shard", "tp")
DATA_AXES = ("replicate", "shard")
"""Axes along which ranks have different batches."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""Communication backends by device type. Checkpoints communicate tensors on the CPU for every device type."""


class ParallelConfig(BaseModel, frozen=True, extra="forbid"):
    """Layout of a model over ranks, and settings of its computation."""

    layout: Layout
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of the blocks; masters and sums of gradients are fp32 in both."""
    pipeline_schedule: str = "1F1B"
    """Name of one of torch's schedules; used if pp > 1."""
    compile_blocks: bool = False
    reshard_after_forward: bool = True
    """Whether FSDP frees a block's gathered weights between its forward and its backward pass."""


@dataclass(frozen=True)
class Mesh:
    """The mesh of ranks; create it with `make_mesh`."""

    layout: Layout
    world: DeviceMesh
    """All ranks, with axes `AXES`."""

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        kind = self.world.device_type
        return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)

    @property
    def data_rank(self) -> int:
        """Index of this rank's batches, 0 .. `layout.data_ranks` - 1: the loader's rank."""
        return self.world.get_local_rank("replicate") * self.layout.shard + self.world.get_local_rank("shard")

    @property
    def stage(self) -> int:
        """Index of this rank in its pipeline."""
        return self.world.get_local_rank("pp")

    @property
    def pp(self) -> DeviceMesh:
        """The ranks of this rank's pipeline."""
        return self.world["pp"]

    @property
    def tp(self) -> DeviceMesh:
        """The ranks that share this rank's matrices and batch."""
        return self.world["tp"]

    @property
    def fsdp(self) -> DeviceMesh:
        """The mesh for `fully_shard`: shard only, or replicate and shard (HSDP)."""
        return self.world[DATA_AXES] if self.layout.replicate > 1 else self.world["shard"]

    @cached_property
    def _by_expert(self) -> DeviceMesh:
        """The same ranks with the shard axis split in two; cached, because it creates process groups."""
        sizes = (self.layout.shard // self.layout.ep, self.layout.ep)
        return self.world._unflatten("shard", sizes, ("expert_shard", "ep"))

    @property
    def ep(self) -> DeviceMesh:
        """The ranks that together hold the experts of this rank's layers; every rank must access it."""
        return self._by_expert["ep"]

    @property
    def expert_fsdp(self) -> DeviceMesh:
        """The mesh for `fully_shard` of experts that are spread over `ep`."""
        return (
            self._by_expert["replicate", "expert_shard"]
            if self.layout.replicate > 1
            else self._by_expert["expert_shard"]
        )

    def sum_over(self, tensor: Tensor, *axes: str) -> Tensor:
        """Sum a tensor, in place, over this rank's groups along some axes."""
        for axis in axes:
            if self.world[axis].size() > 1:
                dist.all_reduce(tensor, group=self.world.get_group(axis))
        return tensor

    def sum_over_data(self, tensor: Tensor) -> Tensor:
        """Sum a tensor, in place, over the ranks with different batches."""
        return self.sum_over(tensor, *DATA_AXES)

    def gather_data(self, own: Tensor) -> Tensor:
        """Return the concatenated tensors of all ranks with different batches, by data rank; requires pp = 1."""
        everyone = [torch.empty_like(own) for _ in range(self.world.size())]
        dist.all_gather(everyone, own)
        return torch.cat(everyone[:: self.layout.tp])


def join_processes(device_type: str) -> None:
    """Join the processes started by torchrun; does nothing if this process has already joined.

    Args:
        device_type: "cpu" (gloo) or "cuda" (nccl; the process uses the device of its local rank).

    Raises:
        UserError: The device type is unknown, or the process was not started by torchrun.
    """
    if device_type not in BACKENDS:
        raise UserError(f"device type {device_type!r} is not known; known: {', '.join(BACKENDS)}")
    if dist.is_initialized():
        return
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"a layout of several processes needs {', '.join(missing)} in the environment: "
            f"start it with torchrun --nproc-per-node N -m modelstack train ..."
        )
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        # torchrun keeps one store across its restarts, with the addresses of dead processes in it. (Nodes count
        # restarts separately, so with several nodes set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 instead.)
        store, rank, world_size = next(rendezvous("env://"))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)  # pyright: ignore
        dist.init_process_group(BACKENDS[device_type], store=store, rank=rank, world_size=world_size)
    else:
        dist.init_process_group(BACKENDS[device_type])


def make_mesh(layout: Layout, device_type: str = "cpu") -> Mesh:
    """Return the mesh of all processes; each process must call this.

    Raises:
        UserError: The numbers of ranks and processes differ, or the layout has context parallelism.
    """
    if layout.cp > 1:
        raise UserError(
            f"cp {layout.cp}: context parallelism is not implemented (torch's has no rule for attention on the "
            f"CPU, so it cannot be tested against one process); set cp = 1 and shard tokens by tp instead"
        )
    n_processes = dist.get_world_size() if dist.is_initialized() else 1
    if layout.n_devices != n_processes:
        raise UserError(
            f"the layout has {layout.n_devices} ranks (pp {layout.pp} x replicate {layout.replicate} x shard "
            f"{layout.shard} x tp {layout.tp}), but there are {n_processes} processes; start as many ranks"
        )
    shape = tuple(getattr(layout, axis) for axis in AXES)
    return Mesh(layout, init_device_mesh(device_type, shape, mesh_dim_names=AXES))
