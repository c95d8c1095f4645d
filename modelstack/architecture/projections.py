"""Linear layers that read the same input: each by itself, or, where their kind knows how, all in one go.

Adapters are such a kind: the products with the input that their layers share are then one product.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SharesInput(nn.Linear):
    """A kind of linear layer of which several can be asked at once."""

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[SharesInput]) -> Sequence[Tensor]:
        """Return what each of some layers of this kind makes of the same input."""
        raise NotImplementedError


def projected(x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
    """Return what each layer makes of the same input."""
    kind = type(layers[0])
    if issubclass(kind, SharesInput) and all(type(layer) is kind for layer in layers):
        return kind.together(x, layers)  # pyright: ignore[reportArgumentType]
    return [layer(x) for layer in layers]
