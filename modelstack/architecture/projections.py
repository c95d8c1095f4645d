"""Linear layers with the same input: computed separately, or together if their class supports it.

Adapters and packed weights support it: layers that share an input compute one product with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names, within a module, of linear layers that read the same input and that engines compute as one product."""

READ_DIRECTLY = frozenset({"kv_b_proj"})
"""Names of linear layers whose weight latent attention also reads itself: an adapter would be ignored there, and a
packed weight cannot be read."""


class SharesInput:
    """A linear layer's class that can compute several layers with the same input at once."""

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
        """Return the output of each of several layers of this class for the same input."""
        raise NotImplementedError


def projected(x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
    """Return the output of each layer for the same input."""
    kind = type(layers[0])
    if issubclass(kind, SharesInput) and all(type(layer) is kind for layer in layers):
        return kind.together(x, layers)
    return [layer(x) for layer in layers]
