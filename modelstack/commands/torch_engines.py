"""Torch engines for commands: a model by name, file or folder, in the numbers that a user chose."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import weakref
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.inference.speculation.speculation import DrafterName
    from modelstack.inference.torch.engine import TorchEngine
    from modelstack.inference.torch.prefill_process import PrefillProcess
    from modelstack.posttrain.base import Base

SHARED_MEMORY = Path("/dev/shm")
"""Folder in memory, on Linux; elsewhere temporary files take its place."""
HANDED_OVER_BYTES = 1 << 30
"""Bytes of keys and values that wait in shared memory."""
_FOLDER_PREFIX = "modelstack-prompts-"


class Numbers(StrEnum):
    """Numbers that a model computes with; int8 is W8A8, with a head in bf16."""

    bf16 = "bf16"
    fp32 = "fp32"
    int8 = "int8"


DRAFTER_HELP = (
    "Source of draft tokens: lookup (the text itself), mtp (the model's own module), none, or a drafter's stage."
)


@dataclass(frozen=True, slots=True)
class Drafter:
    """Source of draft tokens of a command."""

    name: DrafterName | None
    """Name for an engine."""
    folder: Path | None = None
    """Folder of a module to load beside the model."""

    @classmethod
    def parse(cls, text: str) -> Drafter:
        """Return the drafter of an option's value.

        Raises:
            UserError: It is neither a drafter's name nor a folder of `modelstack drafter`.
        """
        if text == "none":
            return cls(None)
        if text == "lookup" or text == "mtp":
            return cls(text)
        from modelstack.architecture.draft_module import FACTS_FILE
        from modelstack.posttrain.stages.stage import DRAFTER

        for folder in (Path(text) / DRAFTER, Path(text)):
            if (folder / FACTS_FILE).is_file():
                return cls("mtp", folder)
        raise UserError(
            f"--drafter {text!r} is none of lookup, mtp and none, and no stage of `modelstack drafter`"
        )


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


def load_torch_base(
    source: str | Path, weights: Path | None, precision: Numbers | None, drafter: Path | None = None
) -> Base:
    """Return the base of a checkpoint folder, stage, GGUF file or a model's name, ready for `torch_engine`.

    Args:
        source: The base.
        weights: Base weights of a stage that is an adapter.
        precision: Numbers.
        drafter: Folder of a module that drafts for the base; None: it keeps its own, if any.
    """
    from modelstack.architecture.draft_module import load_draft_module
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_frozen

    in_memory = "fp32" if precision is Numbers.fp32 else "bf16"
    base = load_frozen(starting_point(source, weights), precision=in_memory, device="auto")
    if drafter is not None:
        load_draft_module(base.model, drafter, base.sha256)
    return base


def prefill_process(
    path: Path, precision: Numbers | None, threads: int | None, context_window: int | None
) -> PrefillProcess:
    """Start a process that reads prompts of a model for an engine of this one (`prefill_worker`)."""
    from modelstack.inference.private_files import folder_of_process
    from modelstack.inference.state_store import StateStore
    from modelstack.inference.torch.prefill_process import PrefillProcess

    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = folder_of_process(place, _FOLDER_PREFIX)
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
