"""Adapter files as changes of the torch engine, which applies several adapters in one batch."""

from __future__ import annotations

from collections.abc import Mapping

from modelstack.errors import UserError
from modelstack.inference.torch.batch_adapters import LowRank
from modelstack.posttrain.lora.files import Adapter, matrix_pairs


def engine_changes(adapter: Adapter) -> Mapping[str, LowRank]:
    """Return the change of each layer, for `TorchEngine.add_adapter`.

    Raises:
        UserError: The adapter is DoRA, or a tensor has no partner.
    """
    if adapter.config.dora:
        raise UserError(
            "a DoRA adapter changes the lengths of the base's rows, which a batch with other adapters cannot "
            "share; merge it with `modelstack stage merge`"
        )
    pairs = matrix_pairs(adapter, "this adapter")
    return {layer: LowRank(a, adapter.config.scale * b) for layer, (a, b) in pairs.items()}
