"""A rank of the goodput benchmark (FSDP2 over gloo) with checkpoints, faults and events; restarted until finished.

modelstack uses `ShardedStore` checkpoints, written in the background, and optional checkpoints in memory between
them. The baseline is a loop with `torch.save`: one file of tensors per rank, written in place and loaded without
verification. Loop, model, data and faults are the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from evals.speed.byte_runs import ByteRows, model_keys, new_model
from modelstack.decide.memory import Layout
from modelstack.stability.agreement import Ranks
from modelstack.stability.fault_injection import inject
from modelstack.stability.faults import Faults
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.memory_checkpoints import CHECKSUM, KEEP, open_memory
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded
from modelstack.stability.run_events import EVENTS_FILE, EventLog
from modelstack.stability.sharded_checkpoints import ShardedStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig
from modelstack.train.loop import LoopConfig, Run, train
from modelstack.train.parallel.mesh import ParallelConfig, join_processes, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.spread_passes import ShardedPasses
from modelstack.train.step import TrainState

WORLD = 2
MAX_RESTARTS = 12
"""Maximum restarts; the death of a rank may count twice, because its peer fails in the next collective."""
FINISHED = "finished"


class Job(BaseModel, frozen=True, extra="forbid"):
    """Work of a rank."""

    folder: Path
    faults: Faults
    n_steps: int
    width: int
    layers: int
    rows: int
    """Number of rows per rank."""
    row_tokens: int
    save_every: int
    memory_every: int | None = None
    """Steps between checkpoints in memory; None disables them."""
    kind: str
    """Kind of checkpoints: "background", "blocking" (both modelstack) or "torch.save"."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TorchSaveStore:
    """Stores one file per rank with `torch.save`; neither atomic nor verified."""

    folder: Path

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the file in place."""
        path = self.folder / f"step-{step:08d}"
        path.mkdir(parents=True, exist_ok=True)
        torch.save(tree_map(_local, dict(state)), path / f"rank{dist.get_rank()}.pt")
        dist.barrier()

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Load the newest checkpoint without verification."""
        newest = max(self.folder.glob("step-*"), default=None)
        dist.barrier()  # otherwise a rank could find the first checkpoint that another rank has just written
        if newest is None:
            return None
        stored = torch.load(newest / f"rank{dist.get_rank()}.pt", weights_only=True)
        templates, trained = like["run"]["train"], stored["run"]["train"]
        trained["model"] = tree_map(_as_template, templates["model"], trained["model"])
        moments = templates["optimizer"]["state"]
        trained["optimizer"]["state"] = tree_map(_as_template, moments, trained["optimizer"]["state"])
        return Loaded(int(newest.name.removeprefix("step-")), stored, ())

    def wait(self) -> None:
        """Return immediately, because `save` blocks."""


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


def _as_template(template: Any, value: Any) -> Any:
    if isinstance(template, DTensor):
        return DTensor.from_local(value, template.device_mesh, template.placements)
    return value


def work(job_json: str) -> None:
    """Train from the newest checkpoint to the end."""
    job = Job.model_validate_json(job_json)
    torch.set_num_threads(1)
    log = EventLog(job.folder / EVENTS_FILE) if os.environ["RANK"] == "0" else None
    join_processes("cpu")
    mesh = make_mesh(Layout(shard=WORLD))
    model = new_model(model_keys(width=job.width, layers=job.layers), job.seed)
    model = parallelize(model, mesh, ParallelConfig(layout=mesh.layout, precision="fp32"))
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    for parameter in model.parameters():  # the optimizer needs a state to load into before its first step
        parameter.grad = torch.zeros_like(parameter)
    _with_state(optimizer)
    state = TrainState(model, optimizer, ShardedPasses(model, mesh))
    rank = dist.get_rank()
    loader = ByteRows(job.rows, job.row_tokens, job.seed, rank, WORLD)
    store: CheckpointStore = TorchSaveStore(job.folder)
    if job.kind != "torch.save":
        store = ShardedStore(job.folder, in_background=job.kind == "background")
    ranks = Ranks.of_run()

    def in_memory(path: Path) -> CheckpointStore:
        kept = ShardedStore(path, KEEP, in_background=True, checksum=CHECKSUM)
        return log.watching(kept) if log is not None else kept

    supervisor = GuardedRun(
        Guard(GuardConfig(), ranks.worst),
        store,
        SupervisorConfig(save_every=job.save_every),
        lambda text: print(text),
        memory=open_memory(job.folder, job.memory_every, ranks, in_memory, lambda text: print(text)),
    )
    run = Run(LoopConfig(n_steps=job.n_steps), state, loader, lambda step: 1.0, supervisor)
    inject(run, job.faults, job.folder, rank)
    if log is not None:
        run.hooks["events"] = log
        supervisor.store = log.watching(supervisor.store)
    if not supervisor.resume(run):
        supervisor.save(run)  # fallback for a run whose first checkpoint fails or is damaged
    for _ in train(run):
        pass
    supervisor.close(run)
    dist.barrier()
    if rank == 0:
        (job.folder / FINISHED).touch()


def _with_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the optimizer's state with a step of zero gradients and rates, then reset its step counter."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        for parameter in group["params"]:
            optimizer.state[parameter]["step"].zero_()
    optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Run as one rank (started by torchrun), or start the ranks by fork repeatedly, with torch imported once."""
    job_json = Path(sys.argv[1]).read_text(encoding="utf-8")
    if "RANK" in os.environ:
        work(job_json)
        os._exit(0)  # gloo's teardown sometimes aborts a process that has finished its work
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=WORLD,
        max_restarts=MAX_RESTARTS,
        monitor_interval=0.1,
        start_method="fork",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="goodput",
    )
    elastic_launch(config, work)(job_json)


if __name__ == "__main__":
    main()
