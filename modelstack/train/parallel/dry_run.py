"""A training step of any layout in one process, without devices or memory: checks that it runs, and reports sizes.

torch's "fake" process group completes every collective at once. Tensors are fake: they have shapes, types and
autograd, but no data. A model of any size is therefore cut, sharded, run forward and backward and updated by its
optimizer with the code of a real run, and errors are found in a minute instead of on 512 devices (torchtitan does
the same, arXiv 2410.06511). Ranks of a layout differ only by their stage, so one rank of the first, a middle and
the last stage represents all.

Bytes of states are those of the created tensors; the prediction of `decide.memory` is reported beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.table import quantity
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import total_loss
from modelstack.architecture.meta import on_meta
from modelstack.architecture.rope import inverse_frequencies
from modelstack.decide.memory import VALUE_BYTES, Memory, check_layout, training_memory
from modelstack.errors import UserError
from modelstack.train.optimizers.build import build_optimizer
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.parallel.bubble import bubble_table
from modelstack.train.parallel.mesh import Mesh, ParallelConfig, make_mesh
from modelstack.train.parallel.parallelize import parallelize
from modelstack.train.parallel.pipeline import Stage, join, make_stages, travels
from modelstack.train.parallel.spread_passes import scale_gradients

MICRO_BATCHES_PER_RANK = (1, 2, 4, 8)
"""Micro-batches of a step over ranks of the pipeline, for the table of idle time."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Number and size of the collectives of one kind."""

    n: int
    n_bytes: int
    """Total bytes of all of them, counting the larger of input and output for each."""


@dataclass(frozen=True, slots=True)
class RankReport:
    """Memory and communication of one rank."""

    rank: int
    stage: int
    """Stage of the pipeline."""
    n_layers: int
    n_parameters: int
    """Number of parameters of its layers, before they are cut and sharded."""
    n_held: int
    """Number of these parameters stored on the rank."""
    n_gathered: int
    """Number of these parameters on the rank after FSDP has gathered them (cut by tensor and expert parallelism
    only).
    """
    masters: int
    """Bytes of the masters; the next two fields are also in bytes."""
    gradients: int
    optimizer: int
    collectives: dict[str, Traffic]
    """Collectives by kind, for one micro-batch (forward and backward), clipping and the optimizer."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """Result of a dry run."""

    parallel: ParallelConfig
    context: int
    predicted: Memory
    """Predicted memory of the device with the most."""
    ranks: tuple[RankReport, ...]

    def text(self) -> str:
        """Return the result as a page of text."""
        layout, found = self.parallel.layout, self.predicted
        chosen = [f"{name}={value}" for name, value in layout.model_dump().items() if value not in (1, "none")]
        facts = ", ".join([*chosen, f"context {self.context}", self.parallel.precision])
        ranks = "1 rank" if layout.n_devices == 1 else f"{layout.n_devices} ranks"
        lines = [
            f"dry run on {ranks} without devices: {facts}",
            "predicted memory of the fullest rank, with AdamW's two moments: "
            + ", ".join(f"{part} {quantity(n_bytes, 'B')}" for part, n_bytes in found.model_dump().items()),
        ]
        for one in self.ranks:
            lines += [
                f"rank {one.rank}, stage {one.stage}: {one.n_layers} layers, {one.n_parameters:,} parameters, "
                f"{one.n_held:,} held here",
                f"  allocated: masters {quantity(one.masters, 'B')}, gradients {quantity(one.gradients, 'B')}, "
                f"optimizer {quantity(one.optimizer, 'B')}",
                "  communication of a micro-batch: "
                + (
                    ", ".join(
                        f"{traffic.n} {name} ({quantity(traffic.n_bytes, 'B')})"
                        for name, traffic in sorted(one.collectives.items())
                    )
                    or "none"
                ),
            ]
            if layout.pp > 1:
                # torch's schedules keep a stage gathered and reduce its gradients after the last micro-batch.
                size = VALUE_BYTES[self.parallel.precision]
                lines.append(
                    f"  while the pipeline runs: gathered weights {quantity(size * one.n_gathered, 'B')}, whole "
                    f"gradients up to {quantity(4 * one.n_gathered, 'B')}"
                )
        if layout.pp > 1:
            micro_batches = [layout.pp * n for n in MICRO_BATCHES_PER_RANK]
            lines += [
                "idle share of the pipeline by schedule and micro-batches M of a step; this one: "
                + self.parallel.pipeline_schedule,
                bubble_table(layout.pp, micro_batches),
            ]
        return "\n".join(lines)


def dry_run(
    config: ModelConfig,
    parallel: ParallelConfig,
    *,
    context: int,
    optimizer: OptimizerConfig | None = None,
) -> DryRun:
    """Run one micro-batch of a layout's first, middle and last stage, and the optimizer, without memory.

    Args:
        config: The model's config.
        parallel: The layout; its ranks need not exist.
        context: Tokens per row; the number of rows is `layout.micro_batch`.
        optimizer: Optimizer settings; None: AdamW.

    Raises:
        UserError: The layout does not match the model, has expert parallelism (whose communication depends on
            data), or this process is one of several.
    """
    layout = parallel.layout
    check_layout(config, layout)
    if dist.is_initialized():
        raise UserError("this process is one of several; start a dry run as a single process")
    if layout.ep > 1:
        raise UserError(
            f"ep {layout.ep}: the rank of a token's experts depends on data, which a dry run lacks; use ep = 1"
        )
    if context % layout.tp:
        raise UserError(f"a context of {context} tokens cannot be cut over tp {layout.tp}; use a multiple")
    optimizer = optimizer or OptimizerConfig(name="adamw")
    _warm_rotations(config)
    with _fake_ranks(layout.n_devices):
        mesh = make_mesh(layout)
        ranks = tuple(
            _run_stage(config, parallel, mesh, context, optimizer, stage)
            for stage in sorted({0, layout.pp // 2, layout.pp - 1})
        )
    return DryRun(parallel, context, training_memory(config, layout, context, parallel.precision), ranks)


def _run_stage(
    config: ModelConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    context: int,
    optimizer_config: OptimizerConfig,
    stage: int,
) -> RankReport:
    with on_meta():
        parts = _parts(config, parallel, stage, context)
    n_parameters = _count(parts, whole=True)
    for part in parts:
        parallelize(part, mesh, parallel)
    with FakeTensorMode(allow_non_fake_inputs=True):  # the mesh's tables of ranks are not fake
        for part in parts:
            part.to_empty(device="cpu")
        share = join(parts) if parallel.layout.pp > 1 else parts[0]  # pyright: ignore
        optimizer = build_optimizer(share, optimizer_config)
        with _Collectives() as listener:
            for part in parts:
                _run_part(part, parallel, context)
            scale_gradients(share.parameters(), 1.0, lambda squared: mesh.sum_over(squared, "pp"))
            optimizer.step()
        states = [value for state in optimizer.state.values() for value in state.values()]
        return RankReport(
            rank=stage * (parallel.layout.n_devices // parallel.layout.pp),
            stage=stage,
            n_layers=sum(len(part.model.layers) for part in parts),
            n_parameters=n_parameters,
            n_held=_count(parts, whole=False),
            n_gathered=_gathered(parts),
            masters=_bytes(share.parameters()),
            gradients=_bytes(p.grad for p in share.parameters() if p.grad is not None),
            optimizer=_bytes(states),
            collectives=listener.traffic,
        )


def _parts(config: ModelConfig, parallel: ParallelConfig, stage: int, context: int) -> list[CausalLM]:
    """Return the stages of one pipeline rank, or the whole model."""
    if parallel.layout.pp == 1:
        return [CausalLM(config)]
    stages = make_stages(config, parallel.pipeline_schedule, parallel.layout.pp, stage, n_tokens=context)
    return list(stages)


def _run_part(part: CausalLM, parallel: ParallelConfig, context: int) -> None:
    """Add the gradients of one micro-batch."""
    layout = parallel.layout
    ids = torch.zeros(layout.micro_batch, context, dtype=torch.int64)
    if not isinstance(part, Stage):
        output = part(ids, documents_BT=ids, with_logits=False, with_mtp=part.config.mtp_loss_coef > 0)
        total_loss(part, output, ids, n_labels=ids.numel()).total.backward()
        return
    # Between blocks, tensor parallelism splits the tokens.
    shapes = travels(part.config, layout.micro_batch, context // layout.tp, DTYPES[parallel.precision])
    received = (
        ()
        if part.is_first
        else tuple(torch.zeros(each.shape, dtype=each.dtype, requires_grad=True) for each in shapes)
    )
    given = part(*received, ids_BT=ids, labels_BT=ids, documents_BT=ids, forced_experts={}, n_labels=ids.numel())
    outputs = [given] if isinstance(given, Tensor) else list(given)
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


@contextmanager
def _fake_ranks(n_ranks: int) -> Iterator[None]:
    """Make this process rank 0 of `n_ranks` ranks whose collectives return at once."""
    dist.init_process_group("fake", rank=0, world_size=n_ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
        # torch's cache of meshes refers to the destroyed groups, and the next run's meshes look the same.
        _clear_sharding_prop_cache()


class _Collectives(TorchDispatchMode):
    """Count collectives. torch's `CommDebugMode` also tracks modules and fails if a module runs again."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic: dict[str, Traffic] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective on local tensors."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it is dispatched again with the local tensors
        result = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional") and "wait" not in func.__name__:
            opname = str(func._opname).strip("_")
            name = _NAMES.get(opname, opname)
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            n_bytes = max(tensor.numel() * tensor.element_size() for tensor in tensors)
            before = self.traffic.get(name, Traffic(0, 0))
            self.traffic[name] = Traffic(before.n + 1, before.n_bytes + n_bytes)
        return result


_NAMES = {
    "allgather_base": "all-gather",
    "all_gather_into_tensor": "all-gather",
    "reduce_scatter_base": "reduce-scatter",
    "reduce_scatter_tensor": "reduce-scatter",
    "allreduce": "all-reduce",
    "all_reduce": "all-reduce",
}
"""Common names of collectives: FSDP and DTensor use different ones."""


def _warm_rotations(config: ModelConfig) -> None:
    """Compute and cache the rotations' angles before tensors are fake and have no data."""
    for layer in range(config.num_hidden_layers):
        rope = config.rope(layer)
        if rope is not None:
            for size in {config.head_dim, config.qk_rope_head_dim or config.head_dim}:
                for r in {size, int(size * rope.partial_rotary_factor)}:
                    inverse_frequencies(rope, r, None)  # the arguments of `rotation`, which are the cache's key


def _count(parts: list[CausalLM], *, whole: bool) -> int:
    parameters = [parameter for part in parts for parameter in part.parameters()]
    return sum(parameter.numel() if whole else _local(parameter).numel() for parameter in parameters)


def _gathered(parts: list[CausalLM]) -> int:
    """Return the number of parameters on a rank after FSDP has gathered all of its units."""
    return sum(_without_shards(parameter) for part in parts for parameter in part.parameters())


def _without_shards(parameter: nn.Parameter) -> int:
    if not isinstance(parameter, DTensor):
        return parameter.numel()
    names = parameter.device_mesh.mesh_dim_names or ()
    is_cut = [not placement.is_replicate() for placement in parameter.placements]
    sizes = zip(names, is_cut, parameter.device_mesh.shape, strict=True)
    n = parameter.numel()
    for name, cut, size in sizes:
        if cut and name in ("tp", "ep"):
            n //= size
    return n


def _bytes(tensors: Iterator[Tensor] | list[Tensor]) -> int:
    return sum(_local(tensor).numel() * tensor.element_size() for tensor in tensors)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
