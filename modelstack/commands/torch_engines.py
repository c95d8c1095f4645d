"""Torch engines for commands: a model by name, file or folder, in the numbers that a user chose."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import weakref
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelstack.inference.speculation.speculation import DrafterName
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.inference.torch.prefill_process import PrefillProcess
    from modelstack.posttrain.base import Base

SHARED_MEMORY = Path("/dev/shm")
"""Folder in memory, on Linux; elsewhere temporary files take its place."""
HANDED_OVER_BYTES = 1 << 30
"""Bytes of keys and values that wait in shared memory."""


class Numbers(StrEnum):
    """Numbers that a model computes with; int8 is W8A8, with a head in bf16."""

    bf16 = "bf16"
    fp32 = "fp32"
    int8 = "int8"


class Drafter(StrEnum):
    """Source of draft tokens."""

    lookup = "lookup"
    mtp = "mtp"
    none = "none"

    @property
    def chosen(self) -> DrafterName | None:
        """The drafter's name for an engine."""
        return None if self is Drafter.none else self.value


def torch_engine(base: Base, precision: Numbers | None, **options: Any) -> TorchEngine:
    """Return an engine over a loaded base, whose weights it may change.

    Args:
        base: A base of `load_torch_base`, in the same precision.
        precision: Numbers; None: int8 if the weights are int8 with one scale per row, else those of the base.
        options: Arguments of `TorchEngine`.
    """
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.inference.torch.packing import Numbers as EngineNumbers

    numbers: EngineNumbers | None = None if precision is None else "int8" if precision is Numbers.int8 else "float"
    return TorchEngine(
        base.model,
        base.tokenizer,
        owns_model=True,
        numbers=numbers,
        rounded=base.rounded,
        **options,
    )


def load_torch_base(source: str | Path, weights: Path | None, precision: Numbers | None) -> Base:
    """Return the base of a checkpoint folder, stage, GGUF file or a model's name, ready for `torch_engine`."""
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_frozen

    in_memory = "fp32" if precision is Numbers.fp32 else "bf16"
    return load_frozen(starting_point(source, weights), precision=in_memory, device="auto")


def prefill_process(
    path: Path, precision: Numbers | None, threads: int | None, context_window: int | None
) -> PrefillProcess:
    """Start a process that reads prompts of a model for an engine of this one (`prefill_worker`)."""
    from modelstack.inference.state_store import StateStore
    from modelstack.inference.torch.prefill_process import PrefillProcess

    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="modelstack-", dir=place))
    settings = {
        "source": str(path),
        "precision": precision,
        "threads": threads,
        "context_window": context_window,
        "folder": str(folder),
        "max_bytes": HANDED_OVER_BYTES,
    }
    command = [sys.executable, "-m", "modelstack.commands.prefill_worker", json.dumps(settings)]
    process = PrefillProcess(command, StateStore(folder, HANDED_OVER_BYTES))
    weakref.finalize(process, shutil.rmtree, folder, ignore_errors=True)
    return process
