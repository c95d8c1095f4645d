"""Linear layers for decoding on a CPU: weights in oneDNN's own layout, layers with one input as one product, int8.

torch's linear layer brings the weight into oneDNN's layout again at each call. For a few rows this takes as long
as the product: with a weight of 3,072 x 576 in bf16, 8 rows take 250 us, and 170 with a packed weight; one row 150
and 70 (one core of a Zen 5). From 128 rows on both are equal. Rounding may differ from training's in the last bit.

In int8 (W8A8) a row of the weight has one scale, and so has each token's input; both are symmetric. The sums are
exact integers, so a token's result is the same, bit for bit, in any batch. Two kernels compute them. One row is
multiplied by `_int_mm`, which takes signed inputs; several rows by oneDNN's `qlinear`, which reads a packed weight
and costs 40 us before it begins. Its inputs are unsigned, with zero point 128: for signed ones it falls back to a
reference kernel that is 300 times slower.

The weights are moved, not copied, so a packed model can neither be trained nor saved.

Letters: K inputs, N outputs of a product, M rows of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.projections import READ_DIRECTLY, SAME_INPUT, SharesInput
from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight

TYPICAL_ROWS = 8
"""Number of rows that oneDNN chooses the layout for. The layout for 1 row gains nothing in fp32."""
TYPES = (torch.bfloat16, torch.float32)
INT8_ROWS = NumberFormat("int", 8, "channel")
SMALLEST_INT8_SIDE = 32
"""Minimum inputs and outputs of a layer that is computed in int8: smaller ones are gates."""
_ZERO_POINT = 128

Numbers = Literal["float", "int8"]
Product = Callable[[Tensor], Tensor]
"""Maps [..., K] to [..., N], for one or more layers whose outputs follow each other."""


class PackedLinear(SharesInput, nn.Module):
    """A linear layer whose weight is part of a packed product."""

    def __init__(self, product: Product, sizes: Sequence[int], place: int, in_features: int) -> None:
        """Take a layer's place in a product.

        Args:
            product: Product of this layer, or of several with the same input.
            sizes: Outputs of each of the layers.
            place: Number of this layer among them.
            in_features: Inputs of the layer.
        """
        super().__init__()
        self._product, self._sizes, self._place = product, list(sizes), place
        self.in_features, self.out_features = in_features, sizes[place]

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., N of this layer]."""
        y = self._product(x)
        return y if len(self._sizes) == 1 else y.split(self._sizes, -1)[self._place]

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
        """Return the output of each layer, by one product if they are one."""
        first = layers[0]
        assert isinstance(first, PackedLinear), "`projected` calls this for layers of one class"
        if len(layers) == len(first._sizes) and all(
            isinstance(layer, PackedLinear) and layer._product is first._product for layer in layers
        ):
            return first._product(x).split(first._sizes, -1)
        return [layer(x) for layer in layers]


def can_pack(model: CausalLM) -> bool:
    """Return whether packing applies: to weights of one supported type on a CPU with oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    types = {weight.dtype for weight in model.parameters()}
    if {weight.device.type for weight in model.parameters()} != {"cpu"} or not types <= {*TYPES}:
        return False
    return torch.bfloat16 not in types or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_linear_layers(
    model: CausalLM, numbers: Numbers = "float", rounded: Mapping[str, RoundedWeight] | None = None
) -> None:
    """Replace the plain linear layers of a model, in place; adapters keep their classes. See `can_pack`.

    Weights that attention reads directly (`READ_DIRECTLY`) stay as they are.

    Args:
        model: The model.
        numbers: "int8": products are computed in W8A8, except that of the head, which keeps its type.
        rounded: Weights that were rounded to int8 with one scale per row; others are rounded here, to nearest.
    """
    if numbers == "int8":
        _widen(model)
    for prefix, module in list(model.named_modules()):
        plain = {name: child for name, child in module.named_children() if _is_plain(child, name)}
        is_int8 = numbers == "int8" and module is not model
        while plain:
            first = next(iter(plain))
            fused = next((names for names in SAME_INPUT if first in names and plain.keys() >= {*names}), (first,))
            layers = [plain.pop(name) for name in fused]
            if is_int8 and all(map(_suits_int8, layers)):
                known = [(rounded or {}).get(f"{prefix}.{name}.weight") for name in fused]
                product: Product = Int8Product(layers, known)
            else:
                product = FloatProduct(layers)
            sizes = [layer.out_features for layer in layers]
            for place, name in enumerate(fused):
                setattr(module, name, PackedLinear(product, sizes, place, layers[place].in_features))


@torch.no_grad()
def _widen(model: CausalLM) -> None:
    """Make a model's states fp32, if all that keeps its own type are vectors and the embedding's table.

    Rounding to int8 and back passes through fp32, so states in half precision would be converted 32 times a layer.
    """
    named = model.model.layers.named_modules()
    rounded = {id(layer.weight) for name, layer in named if _is_plain(layer, name) and _suits_int8(layer)}
    kept = [weight for weight in model.model.layers.parameters() if id(weight) not in rounded]
    if all(weight.ndim == 1 for weight in kept):
        for weight in (*kept, *model.model.norm.parameters()):
            weight.data = weight.data.float()
        model.model.embed_tokens.register_forward_hook(lambda _, __, states: states.float())


def _is_plain(module: nn.Module, name: str) -> TypeGuard[nn.Linear]:
    """Return whether a module is a linear layer that can be packed; its name may be that in a parent."""
    return type(module) is nn.Linear and name.rpartition(".")[2] not in READ_DIRECTLY


def _suits_int8(layer: nn.Linear) -> bool:
    return min(layer.weight.shape) >= SMALLEST_INT8_SIDE


class FloatProduct:
    """Product with a weight of the model's own type, in oneDNN's layout."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Pack the weights of layers with the same input."""
        weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight
        self._n_outputs, self._dtype, self._bias = len(weight), weight.dtype, _joined_bias(layers)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """Return [..., N], in the weight's type."""
        if x.numel() == 0:  # oneDNN refuses products without rows
            return x.new_empty(*x.shape[:-1], self._n_outputs)
        return torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), self._packed, self._bias, "none", [], "")


class Int8Product:
    """Product of int8 weights and int8 inputs."""

    def __init__(self, layers: Sequence[nn.Linear], rounded: Sequence[RoundedWeight | None] | None = None) -> None:
        """Round and pack the weights of layers with the same input.

        Args:
            layers: The layers.
            rounded: Rounded weight of each; those in int8 with one scale per row are taken as they are.
        """
        known = rounded or [None] * len(layers)
        parts = [_int8_rows(layer, each) for layer, each in zip(layers, known, strict=True)]
        values_NK = torch.cat([values for values, _ in parts])
        self._values_KN = values_NK.t()
        self._scale_N = torch.cat([scale for _, scale in parts])
        self._packed = torch.ops.onednn.qlinear_prepack(values_NK, None)
        self._zero_points_N = torch.zeros(len(values_NK), dtype=torch.int32)
        bias = _joined_bias(layers)
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Return [..., N]."""
        rows = x.reshape(-1, x.shape[-1]).float()
        M = len(rows)
        if M == 0:
            return x.new_empty(*x.shape[:-1], len(self._scale_N))
        scale_M1 = rows.abs().amax(-1, keepdim=True).div_(127).clamp_(min=1e-30)
        values_MK = (rows / scale_M1).round_()
        if M == 1:
            y = torch.mul(torch.ops.aten._int_mm(values_MK.to(torch.int8), self._values_KN), self._scale_N)
        else:
            y = torch.ops.onednn.qlinear_pointwise(
                values_MK.add_(_ZERO_POINT).to(torch.uint8),
                1.0,
                _ZERO_POINT,
                self._packed,
                self._scale_N,
                self._zero_points_N,
                None,
                1.0,
                0,
                torch.float32,
                "none",
                [],
                "",
            )
        y.mul_(scale_M1)
        if self._bias is not None:
            y += self._bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def _int8_rows(layer: nn.Linear, rounded: RoundedWeight | None) -> tuple[Tensor, Tensor]:
    """Return a weight [N, K] in int8, and its scale of each row."""
    if rounded is not None and rounded.format == INT8_ROWS:
        return rounded.values, rounded.scale.float().flatten()
    weight = layer.weight.detach().float()
    scale = weight.abs().amax(-1).div_(127).clamp_(min=1e-30)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    """Return the biases of layers in a row; None if no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    parts = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
    return torch.cat([part.detach() for part in parts])
