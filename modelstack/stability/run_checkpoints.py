"""Checkpoints of a running training: where they lie is a protocol; one process's are written and read here.

A checkpoint holds the tensors (safetensors), everything else (JSON) and a manifest; it is whole or absent, and
verified before it is used (`checkpoint_folders`). Those of a run over several processes are
`sharded_checkpoints`'.
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
    """A checkpoint that passed."""

    step: int
    state: dict[str, Any]
    rejected: tuple[str, ...]
    """Newer checkpoints that did not, and why."""


class CheckpointStore(Protocol):
    """Where a run's checkpoints lie; every rank calls each method."""

    @property
    def folder(self) -> Path:
        """Of the checkpoints, and of what else a run leaves."""
        ...

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of a step, or begin to; `state` may change as soon as this returns.

        Raises:
            OSError: The disk is full or fails; the older checkpoints are as they were.
        """
        ...

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest checkpoint that is whole, or None where there is none.

        Args:
            like: A state of the run as it is now: a sharded store fills tensors sharded as these are.
            before: Only checkpoints of fewer steps.

        Raises:
            UserError: There are checkpoints, and none is whole.
        """
        ...

    def wait(self) -> None:
        """Return when what was begun is written.

        Raises:
            OSError: Writing failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Checkpoints of one process."""

    folder: Path
    keep: int = 3
    checksum: Checksum = "sha256"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write one; see `save_run`."""
        save_run(self.folder, step, state, keep=self.keep, checksum=self.checksum)

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest; see `load_run`."""
        return load_run(self.folder, before=before)

    def wait(self) -> None:
        """Return: `save` waits itself."""


def save_run(
    folder: str | Path, step: int, state: Mapping[str, Any], *, keep: int = 3, checksum: Checksum = "sha256"
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    Args:
        folder: Of the run's checkpoints.
        step: Steps done.
        state: Nested dicts, lists and tuples of tensors, numbers, texts, truth values and None.
        keep: At least 1; what is removed is removed only when the new one is in its place.
        checksum: Of its files.

    Raises:
        UserError: The state holds something that cannot be stored.
        OSError: The disk is full or fails; the older checkpoints are as they were.
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
    """Return the newest checkpoint that passes its manifest, or None where there is none.

    Args:
        folder: Of the run's checkpoints.
        before: Only checkpoints of fewer steps: a roll-back wants one from before the trouble.

    Raises:
        UserError: There are checkpoints, and none is whole: starting anew would hide that. Or the newest is a
            `ShardedStore`'s.
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
        raise UserError(f"{path.name}: its manifest names {sorted(manifest)}")
    verify_files(path, manifest, manifest)
    try:
        tensors = load_file(path / TENSORS)
        stored = json.loads((path / REST).read_text(encoding="utf-8"))
        if stored["step"] != step:
            raise UserError(f"{path.name} is of step {stored['step']}: it was renamed")
        return with_tensors(stored["state"], tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} cannot be read: {error!r}") from error


def capture_rng() -> dict[str, Any]:
    """Return torch's random state on the CPU, and on each CUDA device that is in use."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Go back to a random state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
