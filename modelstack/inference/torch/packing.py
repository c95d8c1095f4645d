"""Linear layers whose weights have oneDNN's own layout, for decoding on a CPU.

torch's linear layer brings the weight into that layout again at each call. For a few rows this takes as long as
the product: with a weight of 3,072 x 576 in bf16, 8 rows take 250 us, and 170 with a packed weight; one row 150
and 70 (one core of a Zen 5). From 128 rows on both are equal. Rounding may differ from training's in the last
bit.

The weights are moved, not copied, so a packed model can neither be trained nor saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM

TYPICAL_ROWS = 8
"""Number of rows that oneDNN chooses the layout for. The layout for 1 row gains nothing in fp32."""
TYPES = (torch.bfloat16, torch.float32)


class PackedLinear(nn.Module):
    """A linear layer with a packed weight."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of a layer."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features]."""
        if x.numel() == 0:  # oneDNN refuses products without rows
            return x.new_empty(*x.shape[:-1], self.out_features)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def can_pack(model: CausalLM) -> bool:
    """Return whether packing applies: to weights of one supported type on a CPU with oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    types = {weight.dtype for weight in model.parameters()}
    if {weight.device.type for weight in model.parameters()} != {"cpu"} or not types <= {*TYPES}:
        return False
    return torch.bfloat16 not in types or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_linear_layers(model: CausalLM) -> None:
    """Replace the plain linear layers of a model, in place; adapters keep their classes. See `can_pack`."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
