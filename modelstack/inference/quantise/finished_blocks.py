"""Blocks that an interrupted quantisation finished, one file each, so that the next run continues behind them.

The files lie in the folder OUT.part and are removed with it at the end. They belong to one model, text and set of
parameters, whose hash is in the folder; files of another hash are deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight
from modelstack.files import replacing
from modelstack.inference.quantise.rounded_tensor import RoundedTensor

_KEY = "key.txt"


class FinishedBlocks:
    """Folder of finished blocks."""

    def __init__(self, folder: Path, key: str) -> None:
        """Delete the folder if it belongs to another quantisation.

        Args:
            folder: The folder; the first block that is saved creates it.
            key: Hash of everything that the result depends on (`key_of`).
        """
        self._folder, self._key = folder, key
        known = folder / _KEY
        if folder.is_dir() and not (known.is_file() and known.read_text(encoding="utf-8") == key):
            shutil.rmtree(folder)

    def save(
        self, number: int, block: nn.Module, weights: Mapping[str, RoundedWeight], tensors: Sequence[RoundedTensor]
    ) -> None:
        """Store a finished block: its parameters, and its rounded weights with the report on each."""
        from safetensors.torch import save_file

        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
            with replacing(self._folder / _KEY) as temporary:
                temporary.write_text(self._key, encoding="utf-8")
        stored = {f"parameter:{name}": parameter.detach() for name, parameter in block.named_parameters()}
        for name, weight in weights.items():
            stored |= {f"values:{name}": weight.values, f"scale:{name}": weight.scale}
        stored = {name: tensor.contiguous() for name, tensor in stored.items()}
        report = json.dumps([dataclasses.asdict(tensor) for tensor in tensors])
        with replacing(self._file(number)) as temporary:
            save_file(stored, temporary, metadata={"tensors": report})

    @torch.no_grad()
    def restore(
        self, number: int, block: nn.Module
    ) -> tuple[dict[str, RoundedWeight], list[RoundedTensor]] | None:
        """Give a block the parameters that it had when it was finished.

        Returns:
            Its rounded weights by name and the report on each; None if the block is not finished, or its file is
            damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self._file(number).is_file():
            return None
        try:
            with safe_open(self._file(number), framework="pt") as file:
                tensors = [_tensor_from(fields) for fields in json.loads(file.metadata()["tensors"])]
                values = {name: file.get_tensor(f"parameter:{name}") for name, _ in block.named_parameters()}
                weights = {
                    each.name: RoundedWeight(
                        each.format, file.get_tensor(f"values:{each.name}"), file.get_tensor(f"scale:{each.name}")
                    )
                    for each in tensors
                }
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None
        for name, parameter in block.named_parameters():
            parameter.copy_(values[name])
        return weights, tensors

    def remove(self) -> None:
        """Delete the folder, if there is one."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)

    def _file(self, number: int) -> Path:
        return self._folder / f"block-{number:04d}.safetensors"


def key_of(parameters: Mapping[str, Any], state_dict: Mapping[str, Tensor], batches: Sequence[Tensor]) -> str:
    """Return the hash of a quantisation: of its parameters, the model and the rows that it is calibrated on."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True, default=str).encode())
    for name, tensor in state_dict.items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    for ids in batches:
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()


def _tensor_from(fields: Mapping[str, Any]) -> RoundedTensor:
    return RoundedTensor(**{**fields, "format": NumberFormat(**fields["format"])})
