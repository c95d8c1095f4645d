"""Frozen linear layer with a low-rank adapter: y = x W^T + b + s (x A^T) B^T, and its gradients.

The matrix W + s BA is never computed: two thin products are added to the frozen one in place. The gradients are
written by hand because autograd would store more and move more memory. Here

- the outputs of both branches, and the gradients of their inputs, are summed in one tensor by the products
  themselves;
- layers that read the same input (q, k and v; gate and up) share the product with A;
- fp32 adapters on a bf16 weight are rounded to bf16 for the products, as in autocast, and get fp32 gradients.

DoRA needs the norm of each row of W + s BA, which does not need the matrix either:
w + s b A|^2 = |w|^2 + 2 s (w A^T) b + s^2 b (A A^T) b. It is a constant in the backward pass (arXiv 2402.09353,
section 4.3).

Letters: N tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelstack.architecture.projections import SharesInput
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.train.parallel.materialise import own_part


class LoraLinear(SharesInput, nn.Linear):
    """`nn.Linear` with frozen parameters under their original names, and the parameters of an adapter."""

    lora_A: nn.Parameter
    """Shape [r, I], fp32."""
    lora_B: nn.Parameter
    """Shape [O, r], fp32, initially 0."""
    lora_magnitude: nn.Parameter | None
    """DoRA: length of each row of W + s BA, [O], fp32."""

    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        """Take over the parameters of a layer, frozen, with an adapter that has no values yet (`draw`).

        Args:
            linear: The layer; its tensors are shared.
            config: Rank, scaling and kind of the adapter.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.dropout = config.scale, config.dropout
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(config.rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(linear.out_features, config.rank, device=device))
        self.lora_magnitude = None
        if config.dora:
            self.lora_magnitude = nn.Parameter(torch.empty(linear.out_features, device=device))

    @torch.no_grad()
    def draw(self, config: LoraConfig, name: str) -> None:
        """Give the adapter its initial values, or this process's part of them.

        Args:
            config: As in `__init__`.
            name: Name of the layer in the model; with the seed it determines A.
        """
        own_part(self.lora_A).keep(_first_a(config, name, self.in_features), (0, 0))
        own_part(self.lora_B).values.zero_()
        if self.lora_magnitude is not None:  # its parts are the lengths of the rows in the weight's parts
            weight = own_part(self.weight).values.float()
            own_part(self.lora_magnitude).values.copy_(torch.linalg.vector_norm(weight, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for inputs [..., I], shape [..., O]."""
        return adapted(x, (self,))[0]

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[LoraLinear]) -> Sequence[Tensor]:  # pyright: ignore
        """Return the output of each layer for the same input."""
        return adapted(x, layers)

    @torch.no_grad()
    def adapted_norm(self) -> Tensor:
        """Return the length of each row of W + s BA, [O], fp32."""
        weight, a, b = self.weight.float(), self.lora_A.float(), self.scale * self.lora_B.float()
        squares = weight.square().sum(1) + ((2 * weight @ a.T + b @ (a @ a.T)) * b).sum(1)
        return squares.clamp(min=0).sqrt()

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return W + s BA, with the row lengths of DoRA if used, [O, I], fp32."""
        weight = torch.addmm(self.weight.float(), self.lora_B.float(), self.lora_A.float(), alpha=self.scale)
        if self.lora_magnitude is None:
            return weight
        return weight * (self.lora_magnitude.float() / torch.linalg.vector_norm(weight, dim=1))[:, None]

    def extra_repr(self) -> str:
        """Return the layer's sizes, rank and scale, for a printed model."""
        kind = "" if self.lora_magnitude is None else ", dora"
        return f"{super().extra_repr()}, rank={self.lora_A.shape[0]}, scale={self.scale:g}{kind}"


def adapted(x: Tensor, layers: Sequence[LoraLinear]) -> list[Tensor]:
    """Return the output of each layer for the same input.

    Args:
        x: Input, [..., I].
        layers: Layers with adapters, of any ranks; in training they share one dropout mask.
    """
    first = layers[0]
    seen = F.dropout(x, first.dropout) if first.training and first.dropout else None
    plain = [layer.lora_magnitude is None for layer in layers]
    biases = [layer.bias if is_plain else None for layer, is_plain in zip(layers, plain, strict=True)]
    outputs = _Adapted.apply(
        x,
        seen,
        [layer.scale for layer in layers],
        *(layer.weight for layer in layers),
        *biases,
        *(layer.lora_A for layer in layers),
        *(layer.lora_B for layer in layers),
    )
    return [
        y if is_plain else _stretched(y, layer) for y, layer, is_plain in zip(outputs, layers, plain, strict=True)
    ]


def _stretched(y: Tensor, layer: LoraLinear) -> Tensor:
    """Return DoRA's output of a layer, given the output before the row scaling and without bias."""
    assert layer.lora_magnitude is not None
    factor = (layer.lora_magnitude / layer.adapted_norm()).to(y.dtype)
    return y * factor if layer.bias is None else torch.addcmul(layer.bias, y, factor)


def _first_a(config: LoraConfig, name: str, n_inputs: int) -> Tensor:
    """Return peft's initial A, uniform within 1 / sqrt(I); depends only on the seed and the layer's name."""
    digest = sha256(f"{config.init_seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    bound = 1 / math.sqrt(n_inputs)
    return torch.empty(config.rank, n_inputs).uniform_(-bound, bound, generator=generator)


class _Adapted(torch.autograd.Function):
    """Adapted layers on one input; gradients flow to the input and to the adapters, not to the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor | None, scales: list[float], *parts: Any) -> tuple[Tensor, ...]:
        n = len(scales)
        weights, biases, a_s, b_s = (parts[k * n : (k + 1) * n] for k in range(4))
        dtype = x.dtype
        x_NI = x.reshape(-1, x.shape[-1])
        seen_NI = x_NI if seen is None else seen.reshape(x_NI.shape)
        a = torch.cat(a_s).to(dtype)
        scaled_b = [(b * scale).to(dtype) for b, scale in zip(b_s, scales, strict=True)]
        h = x_NI.new_empty(len(x_NI), len(a))
        torch.mm(seen_NI, a.T, out=h)
        outputs = []
        pieces = zip(weights, biases, scaled_b, h.split([len(one) for one in a_s], dim=1), strict=True)
        for weight, bias, b, h_Nr in pieces:
            # `out=`, because selective checkpointing caches returned products, and this one is changed in place.
            y_NO = x_NI.new_empty(len(x_NI), len(weight))
            if bias is None:
                torch.mm(x_NI, weight.T, out=y_NO)
            else:
                torch.addmm(bias, x_NI, weight.T, out=y_NO)
            outputs.append(y_NO.addmm_(h_Nr, b.T).view(*x.shape[:-1], y_NO.shape[1]))
        ctx.save_for_backward(x_NI, None if seen is None else seen_NI, h, a, *weights, *scaled_b)
        ctx.scales, ctx.shape, ctx.ranks, ctx.adapter_dtype = (
            scales,
            x.shape,
            [len(one) for one in a_s],
            a_s[0].dtype,
        )
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x_NI, seen_NI, h, a, *rest = ctx.saved_tensors
        n = len(ctx.scales)
        weights, scaled_b = rest[:n], rest[n:]
        g_s = [g.reshape(len(x_NI), -1) for g in gradients]
        g_h = torch.cat([g @ b for g, b in zip(g_s, scaled_b, strict=True)], dim=1)
        into_b = [
            (g.T @ h_Nr).to(ctx.adapter_dtype).mul_(scale)
            for g, h_Nr, scale in zip(g_s, h.split(ctx.ranks, dim=1), ctx.scales, strict=True)
        ]
        into_a = (g_h.T @ (x_NI if seen_NI is None else seen_NI)).to(ctx.adapter_dtype).split(ctx.ranks)
        into_x = into_seen = None
        if seen_NI is not None and ctx.needs_input_grad[1]:
            into_seen = (g_h @ a).view(ctx.shape)
        if ctx.needs_input_grad[0]:
            into_x = g_s[0] @ weights[0]
            for g, weight in zip(g_s[1:], weights[1:], strict=True):
                into_x.addmm_(g, weight)
            if seen_NI is None:
                into_x.addmm_(g_h, a)
            into_x = into_x.view(ctx.shape)
        nothing = [None] * (2 * n)
        return into_x, into_seen, None, *nothing, *into_a, *into_b
