"""Checkpoints of a training run: the protocol of a store, and the store of a single process.

A checkpoint holds the tensors (safetensors), everything else (JSON) and a manifest. It is complete or absent, and
is verified before use (`checkpoint_folders`). `sharded_checkpoints` stores those of a run over several processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.files import replacing_folder
from modelstack.stability.checkpoint_folders import (
    REST,
    TENSORS,
    Checksum,
    check_keep,
    checkpoint_path,
    checkpoints,
    file_facts,
    kind_of,
    none_is_whole,
    read_manifest,
    remove_old,
    verify_files,
    write_manifest,
    write_tensors,
    wrong_kind,
)
from modelstack.stability.plain_state import with_tensors, without_tensors


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified checkpoint."""

    step: int
    state: dict[str, Any]
    rejected: tuple[str, ...]
    """Newer checkpoints that failed the verification, with reasons."""


class CheckpointStore(Protocol):
    """Store of a run's checkpoints; every rank must call each method."""

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints and of other files of a run."""
        ...

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of a step, or start to; `state` may change as soon as this returns.

        Raises:
            OSError: The disk is full or fails; older checkpoints are unchanged.
        """
        ...

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest complete checkpoint, or None if there is none.

        Args:
            like: The current state of the run: a sharded store fills tensors that are sharded in the same way.
            before: Only checkpoints of fewer steps.

        Raises:
            UserError: There are checkpoints, but none is complete.
        """
        ...

    def wait(self) -> None:
        """Wait until a started checkpoint is written.

        Raises:
            OSError: Writing failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Checkpoint store of a single process."""

    folder: Path
    keep: int = 3
    checksum: Checksum = "sha256"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; see `save_run`."""
        save_run(self.folder, step, state, keep=self.keep, checksum=self.checksum)

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest checkpoint; see `load_run`."""
        return load_run(self.folder, before=before)

    def wait(self) -> None:
        """Return at once, because `save` is synchronous."""


def save_run(
    folder: str | Path, step: int, state: Mapping[str, Any], *, keep: int = 3, checksum: Checksum = "sha256"
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    Args:
        folder: Folder of the run's checkpoints.
        step: Number of completed steps.
        state: Nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        keep: Number of checkpoints to keep, at least 1; old ones are removed only after the new one is complete.
        checksum: Checksum of its files.

    Raises:
        UserError: The state contains a value that cannot be stored.
        OSError: The disk is full or fails; older checkpoints are unchanged.
    """
    check_keep(keep)
    tensors: dict[str, Tensor] = {}
    rest = without_tensors(dict(state), tensors)
    path = checkpoint_path(folder, step)
    with replacing_folder(path) as temporary:
        write_tensors(temporary / TENSORS, tensors)
        (temporary / REST).write_text(json.dumps({"step": step, "state": rest}), encoding="utf-8")
        write_manifest(temporary, {name: file_facts(temporary / name, checksum) for name in (TENSORS, REST)})
    remove_old(folder, keep)
    return path


def load_run(folder: str | Path, *, before: int | None = None) -> Loaded | None:
    """Return the newest checkpoint that passes verification, or None if there is none.

    Args:
        folder: Folder of the run's checkpoints.
        before: Only checkpoints of fewer steps, for a roll-back to a state before the damage.

    Raises:
        UserError: There are checkpoints, but none is complete (starting anew would hide this), or the newest is
            that of a `ShardedStore`.
    """
    rejected: list[str] = []
    for step, path in checkpoints(folder):
        if before is not None and step >= before:
            continue
        if (kind := kind_of(path)) == "sharded":
            raise wrong_kind(path, kind)
        try:
            return Loaded(step, _read(path, step), tuple(rejected))
        except UserError as error:
            rejected.append(str(error))
    if rejected:
        raise none_is_whole(folder, rejected)
    return None


def _read(path: Path, step: int) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(path)
    if manifest.keys() != {TENSORS, REST}:
        raise UserError(f"{path.name}: its manifest lists {sorted(manifest)} instead of {TENSORS} and {REST}")
    verify_files(path, manifest, manifest)
    try:
        tensors = load_file(path / TENSORS)
        stored = json.loads((path / REST).read_text(encoding="utf-8"))
        if stored["step"] != step:
            raise UserError(f"{path.name} belongs to step {stored['step']}; it was renamed")
        return with_tensors(stored["state"], tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} cannot be read: {error!r}") from error


def capture_rng() -> dict[str, Any]:
    """Return torch's random state on the CPU, and on each CUDA device in use."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restore a random state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
