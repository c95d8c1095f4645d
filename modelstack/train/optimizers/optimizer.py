"""Optimizer for a whole model: each group of parameters is updated by AdamW or by Muon.

It is a `torch.optim.Optimizer`, so schedules, `state_dict` and distributed checkpoints work as with torch's own.
AdamW is torch's function, fused where available (a single pass over memory). This module adds the grouping, Muon,
and the update of the local shard of a sharded parameter.

A schedule's factor multiplies `group["initial_lr"]`, the learning rate that a group was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from modelstack.train.optimizers.matrices import Fusion
from modelstack.train.optimizers.muon import gathered, muon_updates, portions, shard_like
from modelstack.train.optimizers.newton_schulz import SCHEDULES

FUSED_DEVICES = ("cpu", "cuda")


class GroupedOptimizer(torch.optim.Optimizer):
    """Optimizer with a `method` for each group: "adamw" with betas and eps, or "muon" with its settings."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Store groups from `build.build_optimizer`; they must be complete, because there are no defaults."""
        super().__init__(groups, {})
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            METHODS[group["method"]](self, group)
        return loss


def _adamw_step(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Apply AdamW, arXiv 1711.05101; it is elementwise, so each rank updates its shard."""
    parameters = [p for p in group["params"] if p.grad is not None]
    for p in parameters:
        if not optimizer.state[p]:
            optimizer.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
    states = [optimizer.state[p] for p in parameters]
    is_fused = all(p.device.type in FUSED_DEVICES for p in parameters)
    adamw(
        [_local(p) for p in parameters],
        [_gradient(p) for p in parameters],
        [_local(state["exp_avg"]) for state in states],
        [_local(state["exp_avg_sq"]) for state in states],
        [],
        [state["step"] for state in states],
        foreach=False,
        fused=is_fused,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _muon_step(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    fusions = [None if fusion is None else Fusion(*fusion) for fusion in group["fusions"]]
    moved = [(p, fusion) for p, fusion in zip(group["params"], fusions, strict=True) if p.grad is not None]
    schedule, dtype = SCHEDULES[group["newton_schulz"]], getattr(torch, group["newton_schulz_dtype"])
    for portion in portions([p for p, _ in moved]):
        parameters, of_portion = zip(*(moved[index] for index in portion), strict=True)
        directions = [gathered(_momentum(optimizer, p, group)) for p in parameters]
        updates = muon_updates(directions, of_portion, schedule, dtype, group["update_rms"])
        for p, update in zip(parameters, updates, strict=True):
            local = _local(p)
            local.mul_(1 - group["lr"] * group["weight_decay"])
            local.add_(shard_like(update, p).to(local.dtype), alpha=-group["lr"])


METHODS: dict[str, Callable[[torch.optim.Optimizer, dict[str, Any]], None]] = {
    "adamw": _adamw_step,
    "muon": _muon_step,
}


def _momentum(optimizer: torch.optim.Optimizer, p: Tensor, group: dict[str, Any]) -> Tensor:
    """Update the momentum; return the matrix to orthogonalise, sharded as the parameter."""
    state = optimizer.state[p]
    if not state:
        state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    momentum, gradient = state["momentum_buffer"], _gradient(p)
    local = _local(momentum)
    local.mul_(group["momentum"]).add_(gradient)
    direction = gradient.add(local, alpha=group["momentum"]) if group["nesterov"] else local
    if not isinstance(p, DTensor):
        return direction
    return DTensor.from_local(
        direction, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def _gradient(p: Tensor) -> Tensor:
    """Return the gradient of this rank's shard; partial sums are added up first."""
    gradient = p.grad
    assert gradient is not None  # parameters without a gradient are filtered by the caller
    if isinstance(gradient, DTensor) and isinstance(p, DTensor):
        gradient = gradient.redistribute(placements=p.placements)
    return _local(gradient).to(p.dtype)
