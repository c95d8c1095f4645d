"""One optimizer for a whole model: each group of parameters is moved by AdamW or by Muon.

A `torch.optim.Optimizer`, so schedules, `state_dict` and distributed checkpoints work as with torch's own. AdamW
is torch's function (the fused one where there is one: a single pass over memory); what is ours is the grouping,
Muon, and that both work on the local shard of a sharded parameter.

A schedule's factor multiplies `group["initial_lr"]`, which is what a group was built with.
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
    """Groups carry `method`: "adamw" with betas and eps, or "muon" with momentum and what `muon_updates` takes."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take groups as `build.build_optimizer` makes them: complete, there are no defaults."""
        super().__init__(groups, {})
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient; return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            METHODS[group["method"]](self, group)
        return loss


def _adamw_step(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """AdamW, arXiv 1711.05101: elementwise, so each rank moves its shard."""
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
    """Move the momentum by the gradient; return what is to be orthogonalised, sharded as the parameter is."""
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
    """Return the gradient of this rank's shard; one that is still a partial sum is added up first."""
    gradient = p.grad
    assert gradient is not None  # the caller left the others out
    if isinstance(gradient, DTensor) and isinstance(p, DTensor):
        gradient = gradient.redistribute(placements=p.placements)
    return _local(gradient).to(p.dtype)
