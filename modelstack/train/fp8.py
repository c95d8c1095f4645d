"""Linear layers with their three products in FP8, as in DeepSeek-V3's training (arXiv 2412.19437, section 3.3).

All three products of a layer, y = x W^T, dx = dy W and dW = dy^T x, take E4M3 operands. An operand is quantised in
pieces, each with its own scale, max|piece| / 448: activations and gradients in tiles of 1 x 128 along the summed
axis, weights in blocks of 128 x 128, which serve forward and backward pass. Products are summed over 128 positions
of that axis at a time, then scaled and accumulated in fp32. The weight gradient sums over tokens, so x, stored in
FP8 for the backward pass, is dequantised and tiled again along the tokens.

Scales are arbitrary fp32 numbers in general. For the inputs of the projection after attention (and of the
experts), the report rounds them to powers of two, so that tiling again adds no error. `convert_linears` does the
same for `o_proj`. The report stores those inputs in a special type with 6 exponent and 5 mantissa bits, E5M6,
which is not implemented here: they are E4M3 like the rest.

On a CPU the formula is emulated exactly: E4M3 values are multiples of 2^-9 up to 448, so a sum of 128 products
fits fp64 without rounding; it is rounded once to fp32. (Hopper's tensor cores keep fewer bits within the 128,
which is the report's reason to accumulate in fp32 every 128.) On Hopper the same operands go to torch's
block-scaled product.

Letters: N tokens of all rows, D inputs, O outputs; M x K and J x K the operands of a product M x J, R x K either
of them, k = ceil(K / 128).
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.rounded_weight import BLOCK, E4M3, E4M3_MAX
from modelstack.errors import UserError

TILE = BLOCK
"""Positions of a tile along the summed axis: a block's side."""
SMALLEST_SCALE = 2.0**-126
"""Smallest scale, fp32's smallest normal number: the divisor of pieces of zeros."""
KERNEL_MULTIPLE = 16
"""Required multiple of rows and columns for the Hopper kernel; other sizes are emulated."""
OUTSIDE = ("*lm_head", "*gate", "*compressor*gate_proj", "*weights_proj", "*in_proj_a", "*in_proj_b")
"""Names of linear layers that are not converted: the head, and layers whose outputs are selections, gates of a
softmax or decays. (Embeddings, norms and routers are not `nn.Linear` here, and attention's products are not
layers.) The report excludes embedding, head, gating modules, norms and attention.
"""
POWER_OF_TWO = ("*o_proj",)


class Quantised(NamedTuple):
    """A quantised operand: each of `values_RK` times the scale of its piece."""

    values_RK: Tensor
    """Values in E4M3."""
    scales: Tensor
    """Scales, fp32: [R, k] for tiles, [ceil(R / 128), k] for blocks."""
    rows: int
    """Rows per piece: 1 or 128."""

    def t(self) -> Quantised:
        """Return the transposed operand; for blocks only, which remain blocks."""
        assert self.rows == TILE
        return Quantised(self.values_RK.t(), self.scales.t(), TILE)


def quantise(x_RK: Tensor, rows: int = 1, *, power_of_two: bool = False) -> Quantised:
    """Return x as E4M3 with a scale for each `rows` x 128 piece; pieces at the edge may be smaller.

    Args:
        x_RK: Numbers of any floating type; K is the axis of the later sum.
        rows: 1 for activations and gradients, 128 for weights.
        power_of_two: Round each scale up to a power of two.
    """
    R, K = x_RK.shape
    pieces = F.pad(x_RK.float(), (0, -K % TILE, 0, -R % rows)).unflatten(1, (-1, TILE)).unflatten(0, (-1, rows))
    scales = (pieces.abs().amax(dim=(1, 3)) / E4M3_MAX).clamp(min=SMALLEST_SCALE)
    if power_of_two:
        mantissa, exponent = torch.frexp(scales)  # mantissa in [0.5, 1): 0.5 means an exact power of two
        scales = torch.ldexp(torch.ones_like(scales), exponent - (mantissa == 0.5).int())
    values = (pieces / scales[:, None, :, None]).to(E4M3).flatten(2, 3).flatten(0, 1)
    return Quantised(values[:R, :K].contiguous(), scales, rows)


def dequantise(q: Quantised) -> Tensor:
    """Return values times scales, fp32 [R, K]."""
    R, K = q.values_RK.shape
    scales = q.scales.repeat_interleave(q.rows, 0)[:R].repeat_interleave(TILE, 1)[:, :K]
    return q.values_RK.float() * scales


def scaled_matmul(a: Quantised, b: Quantised) -> Tensor:
    """Return a b^T, fp32 [M, J], with the Hopper kernel if it supports the operands, else emulated."""
    return _kernel_matmul(a, b) if has_kernel(a, b) else emulated_matmul(a, b)


def emulated_matmul(a: Quantised, b: Quantised) -> Tensor:
    """Return a b^T, fp32 [M, J]: exact sums over 128 positions, rounded, scaled, and added in order."""
    M, J = len(a.values_RK), len(b.values_RK)
    a_scales = a.scales.repeat_interleave(a.rows, 0)[:M]
    b_scales = b.scales.repeat_interleave(b.rows, 0)[:J]
    total = torch.zeros(M, J, device=a.values_RK.device)
    tiles = zip(a.values_RK.split(TILE, 1), b.values_RK.split(TILE, 1), strict=True)
    for tile, (a_values, b_values) in enumerate(tiles):
        partial = (a_values.double() @ b_values.double().t()).float()
        total += partial * (a_scales[:, tile, None] * b_scales[None, :, tile])
    return total


def has_kernel(a: Quantised, b: Quantised) -> bool:
    """Whether torch has a block-scaled product for these operands on their device: Hopper, CUDA 12.9."""
    if not a.values_RK.is_cuda or torch.cuda.get_device_capability(a.values_RK.device) != (9, 0):
        return False
    cuda = tuple(int(part) for part in (torch.version.cuda or "0.0").split(".")[:2])
    sizes = (len(a.values_RK), len(b.values_RK))
    return cuda >= (12, 9) and a.values_RK.shape[1] % TILE == 0 and all(n % KERNEL_MULTIPLE == 0 for n in sizes)


def _kernel_matmul(a: Quantised, b: Quantised) -> Tensor:
    return F.scaled_mm(
        a.values_RK.contiguous(),
        b.values_RK.contiguous().t(),
        *_for_kernel(a),
        *_for_kernel(b),
        output_dtype=torch.float32,
    )


def _for_kernel(q: Quantised) -> tuple[Tensor, Any]:
    """Return the scales in cuBLAS's layout, and their kind.

    Tiles: [R, k], contiguous along R. Blocks: [k padded to a multiple of 4, R / 128], contiguous along k.
    """
    kinds = F.ScalingType  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    if q.rows == 1:
        return q.scales.t().contiguous().t(), kinds.BlockWise1x128
    return F.pad(q.scales, (0, -q.scales.shape[1] % 4)).contiguous().t(), kinds.BlockWise128x128


class _Fp8Product(torch.autograd.Function):
    """y = x W^T with all three products in FP8."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_OD: Tensor, power_of_two: bool) -> Tensor:
        x = quantise(x_ND, power_of_two=power_of_two)
        weight = quantise(weight_OD, TILE)
        ctx.save_for_backward(x.values_RK, x.scales, weight.values_RK, weight.scales)
        ctx.types = (x_ND.dtype, weight_OD.grad_dtype or weight_OD.dtype)
        ctx.power_of_two = power_of_two
        return scaled_matmul(x, weight).to(x_ND.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (dy_NO,) = gradients
        x_values, x_scales, weight_values, weight_scales = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.types
        dx = dw = None
        if ctx.needs_input_grad[0]:
            weight = Quantised(weight_values, weight_scales, TILE)
            dx = scaled_matmul(quantise(dy_NO), weight.t()).to(x_dtype)
        if ctx.needs_input_grad[1]:
            x_DN = dequantise(Quantised(x_values, x_scales, 1)).t()
            tiled = quantise(x_DN, power_of_two=ctx.power_of_two)
            dw = scaled_matmul(quantise(dy_NO.t()), tiled).to(weight_dtype)
        return dx, dw, None


class Fp8Linear(nn.Linear):
    """A linear layer that computes in FP8; weight and bias keep their types and names."""

    power_of_two = False
    """Whether the scales of the inputs are powers of two."""

    @classmethod
    def of(cls, linear: nn.Linear, *, power_of_two: bool = False) -> Fp8Linear:
        """Return the layer in FP8, with the same parameters."""
        made = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        made.power_of_two = power_of_two
        return made.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., O], in the type of x."""
        y: Tensor = _Fp8Product.apply(x.flatten(0, -2), self.weight, self.power_of_two)  # pyright: ignore
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def convert_linears(model: nn.Module, chosen: Callable[[str, nn.Linear], bool] | None = None) -> list[str]:
    """Replace linear layers by FP8 ones, in place, and return their names.

    Args:
        model: The model. Embedding, head, norms and routers are not replaced; neither are packed experts, which
            are not linear layers.
        chosen: Returns whether to replace a layer, given its name; None: all layers except `OUTSIDE`.

    Raises:
        UserError: No layer was selected.
    """
    chosen = chosen or _usual
    found = [
        (parent, path, leaf, child)
        for path, parent in model.named_modules()
        for leaf, child in parent.named_children()
        if type(child) is nn.Linear and chosen(f"{path}.{leaf}" if path else leaf, child)
    ]
    if not found:
        raise UserError("no linear layer of the model was selected for FP8; select at least one")
    names = []
    for parent, path, leaf, child in found:
        name = f"{path}.{leaf}" if path else leaf
        power_of_two = any(fnmatchcase(name, pattern) for pattern in POWER_OF_TWO)
        setattr(parent, leaf, Fp8Linear.of(child, power_of_two=power_of_two))
        names.append(name)
    return names


def _usual(name: str, linear: nn.Linear) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in OUTSIDE)
