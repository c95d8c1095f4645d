"""Adapter files as changes of the torch engine, which applies several adapters in one batch."""

from __future__ import annotations

from collections.abc import Mapping

from modelstack.errors import UserError
from modelstack.inference.torch.batch_adapters import LowRank
from modelstack.posttrain.lora.adapters import PEFT_PREFIX
from modelstack.posttrain.lora.files import Adapter

_A, _B = ".lora_A.weight", ".lora_B.weight"


def engine_changes(adapter: Adapter) -> Mapping[str, LowRank]:
    """Return the change of each layer, for `TorchEngine.add_adapter`.

    Raises:
        UserError: The adapter is DoRA, or a tensor is missing.
    """
    if adapter.config.dora:
        raise UserError(
            "a DoRA adapter changes the lengths of the base's rows, which a batch with other adapters cannot "
            "share; merge it with `modelstack stage merge`"
        )
    changes: dict[str, LowRank] = {}
    for name, a in adapter.state.items():
        if not name.endswith(_A):
            continue
        b = adapter.state.get(name.removesuffix(_A) + _B)
        if b is None:
            raise UserError(f"the adapter has {name}, but no {_B.lstrip('.')} beside it")
        layer = name.removeprefix(PEFT_PREFIX).removesuffix(_A)
        changes[layer] = LowRank(a.float(), adapter.config.scale * b.float())
    return changes
