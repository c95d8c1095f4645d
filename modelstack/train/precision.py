"""bf16 compute with fp32 master weights, without autocast: the model is bf16, the optimizer updates an fp32 copy.

bf16 has 8 bits of precision, so w + u equals w whenever u is less than 1/512 of it; late in training this holds
for nearly every update. Masters receive the updates and the model gets their rounded values (Micikevicius et al.,
arXiv 1710.03740). Loss scaling is not needed, because bf16 has fp32's range.

Gradients are fp32 too: each parameter's `grad_dtype` tells autograd so. Gradients of micro-batches are therefore
added in fp32, and clipping and guards read them from the model's parameters as usual. FSDP2 does all of this with
its own `MixedPrecisionPolicy` and needs no masters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelstack.errors import UserError


class Fp32Masters:
    """An optimizer on fp32 copies of a model's parameters; create it with `with_fp32_masters`.

    It has the methods of an optimizer, and `param_groups` with the masters. A tied parameter is one tensor with
    one master.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """Store an optimizer over masters, and pairs of a model parameter and its master."""
        self.optimizer = optimizer
        self.pairs = pairs

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, which contain the masters."""
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Update the masters from the model's gradients, and copy their rounded values to the model."""
        for parameter, master in self.pairs:
            master.grad = parameter.grad
        self.optimizer.step()
        self.optimizer.zero_grad()  # removes the masters' references to the model's gradients
        self._round()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the model's gradients, or set them to 0."""
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
        """Restore a saved state; the model's parameters get the rounded masters.

        Raises:
            UserError: The masters belong to another model.
        """
        shapes = [tuple(saved.shape) for saved in state["masters"]]
        own = [tuple(master.shape) for _, master in self.pairs]
        if shapes != own:
            raise UserError(
                f"the saved masters are {len(shapes)} tensors and the model's {len(own)}, or their shapes differ: "
                f"load the state into the same model and optimizer that saved it"
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
    """Cast the model in place and return its optimizer, with fp32 masters of the values before the cast.

    Args:
        model: An fp32 model. For a model in lower precision (a loaded checkpoint), masters are copies of its
            values.
        build: Creates the optimizer of the model's own parameters, for example `build_optimizer` with its config.
        dtype: Type in which the model computes.

    Raises:
        UserError: `dtype` is not a floating type of less than 32 bits.
    """
    if not dtype.is_floating_point or dtype.itemsize >= torch.float32.itemsize:
        raise UserError(
            f"dtype {dtype} needs no masters; use torch.bfloat16, or build the optimizer without masters"
        )
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
