"""bf16 compute with fp32 masters, without autocast: the model simply is bf16, the optimizer's copy is not.

bf16 has 8 bits of precision, so w + u is w wherever u is less than 1/512 of it, and late in training nearly every
update is. Masters take the updates and the model gets them rounded (Micikevicius et al., arXiv 1710.03740). No
loss scaling: bf16 has fp32's range.

Gradients are fp32 too: each parameter's `grad_dtype` says so to autograd, so those of micro-batches add up in
fp32, and clipping and guards see them on the model's parameters as ever. FSDP2 does all of this by its own
`MixedPrecisionPolicy` and needs no masters beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelstack.errors import UserError


class Fp32Masters:
    """An optimizer on fp32 copies of a model's parameters; make it with `with_fp32_masters`.

    It has an optimizer's methods, and its `param_groups`, which hold the masters. A tied parameter is one tensor
    with one master.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """Take an optimizer over masters, and each model parameter with its master."""
        self.optimizer = optimizer
        self.pairs = pairs

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's, over masters."""
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Move the masters by the model's gradients, and give the model their rounded values."""
        for parameter, master in self.pairs:
            master.grad = parameter.grad
        self.optimizer.step()
        self.optimizer.zero_grad()  # the masters' names for gradients that are the model's
        self._round()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the model's gradients, or make them 0."""
        for parameter, _ in self.pairs:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and the masters, in the order of the groups."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "masters": [master.detach() for _, master in self.pairs],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; the model's parameters become its masters, rounded.

        Raises:
            UserError: The masters are of another model.
        """
        shapes = [tuple(saved.shape) for saved in state["masters"]]
        own = [tuple(master.shape) for _, master in self.pairs]
        if shapes != own:
            raise UserError(
                f"the saved masters are {len(shapes)} tensors and the model's {len(own)}, or their shapes differ: "
                f"load the state into the model and the optimizer that it was saved from"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        for (_, master), saved in zip(self.pairs, state["masters"], strict=True):
            master.copy_(saved)
        self._round()

    def _round(self) -> None:
        for parameter, master in self.pairs:
            parameter.copy_(master)


def with_fp32_masters(
    model: nn.Module,
    build: Callable[[nn.Module], torch.optim.Optimizer],
    dtype: torch.dtype = torch.bfloat16,
) -> Fp32Masters:
    """Cast the model, in place, and return its optimizer on fp32 masters of the values before the cast.

    Args:
        model: fp32; one that is lower already (a loaded checkpoint) gets masters of what it has.
        build: Makes the optimizer of the model's own parameters, `build_optimizer` with its config for one.
        dtype: What the model computes in.

    Raises:
        UserError: `dtype` is not a floating type of less than 32 bits.
    """
    if not dtype.is_floating_point or dtype.itemsize >= torch.float32.itemsize:
        raise UserError(f"dtype {dtype} needs no masters: give torch.bfloat16, or build the optimizer alone")
    optimizer = build(model)
    pairs = []
    for group in optimizer.param_groups:
        masters = [nn.Parameter(parameter.detach().clone().float()) for parameter in group["params"]]
        pairs += zip(group["params"], masters, strict=True)
        group["params"] = masters
    model.to(dtype)
    for parameter, master in pairs:
        parameter.grad_dtype = master.dtype
    return Fp32Masters(optimizer, pairs)
