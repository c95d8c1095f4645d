"""Checkpoints of a running training: whole or absent, verified before they are used, the last few kept.

A checkpoint is a folder `step-00001200` with the tensors (safetensors), everything else (JSON) and a manifest of
sizes and SHA-256. It is written beside its place, synced and renamed, so a process killed at any moment leaves
the one before. A bit that flipped on the disk, a truncated or missing file, shows when it is loaded: then the
one before is taken, and the caller is told. No pickle: a checkpoint from elsewhere can be wrong, but it cannot
run code.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.files import replacing_folder

TENSORS, REST, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_BLOCK_BYTES = 1 << 20
_TENSOR, _TUPLE, _DICT = "$tensor", "$tuple", "$dict"
"""Marks of what JSON has no form for. A dict of the state may not have such a key itself."""


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

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write one; see `save_run`."""
        save_run(self.folder, step, state, keep=self.keep)

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        """Return the newest; see `load_run`."""
        return load_run(self.folder, before=before)

    def wait(self) -> None:
        """Return: `save` waits itself."""


def save_run(folder: str | Path, step: int, state: Mapping[str, Any], *, keep: int = 3) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    Args:
        folder: Of the run's checkpoints.
        step: Steps done.
        state: Nested dicts, lists and tuples of tensors, numbers, texts, truth values and None.
        keep: At least 1; what is removed is removed only when the new one is in its place.

    Raises:
        UserError: The state holds something that cannot be stored.
        OSError: The disk is full or fails; the older checkpoints are as they were.
    """
    from safetensors.torch import save_file

    if keep < 1:
        raise UserError(f"keep is {keep}; at least 1 checkpoint has to stay")
    tensors: dict[str, Tensor] = {}
    rest = _without_tensors(dict(state), "", tensors)
    path = Path(folder) / f"step-{step:08d}"
    with replacing_folder(path) as temporary:
        save_file(tensors, temporary / TENSORS)
        (temporary / REST).write_text(json.dumps({"step": step, "state": rest}), encoding="utf-8")
        files = {name: _facts(temporary / name) for name in (TENSORS, REST)}
        (temporary / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for _, old in _checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return path


def load_run(folder: str | Path, *, before: int | None = None) -> Loaded | None:
    """Return the newest checkpoint that passes its manifest, or None where there is none.

    Args:
        folder: Of the run's checkpoints.
        before: Only checkpoints of fewer steps: a roll-back wants one from before the trouble.

    Raises:
        UserError: There are checkpoints, and none is whole: starting anew would hide that.
    """
    rejected: list[str] = []
    for step, path in _checkpoints(folder):
        if before is not None and step >= before:
            continue
        try:
            return Loaded(step, _read(path, step), tuple(rejected))
        except UserError as error:
            rejected.append(str(error))
    if rejected:
        raise UserError(f"no checkpoint in {folder} is whole: {'; '.join(rejected)}. Remove them to start anew")
    return None


def verify(path: Path) -> None:
    """Hold a checkpoint's files against its manifest.

    Raises:
        UserError: A file is missing, of another size or another hash; or there is no manifest.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} has no sound manifest ({error})") from error
    if expected.keys() != {TENSORS, REST}:
        raise UserError(f"{path.name}: its manifest names {sorted(expected)}")
    for name, (n_bytes, digest) in expected.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{path.name} lacks {name}")
        if file.stat().st_size != n_bytes:
            raise UserError(f"{path.name}: {name} has {file.stat().st_size} bytes, written were {n_bytes}")
        if _sha256(file) != digest:
            raise UserError(f"{path.name}: {name} is not what was written (SHA-256)")


def _read(path: Path, step: int) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(path)
    try:
        tensors = load_file(path / TENSORS)
        stored = json.loads((path / REST).read_text(encoding="utf-8"))
        if stored["step"] != step:
            raise UserError(f"{path.name} is of step {stored['step']}: it was renamed")
        return _with_tensors(stored["state"], tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} cannot be read: {error!r}") from error


def _checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """Return steps and folders, newest first; what is not named like one is somebody else's."""
    if not Path(folder).is_dir():
        return []
    found = [(match, path) for path in Path(folder).iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return plain JSON; tensors go into `tensors`, by their path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # safetensors refuses memory shared by two names
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        items = [(key, _without_tensors(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {_DICT: [[_plain(key, path), item] for key, item in items]}
    if isinstance(value, tuple | list):
        items = [_without_tensors(item, f"{path}/{n}", tensors) for n, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    return _plain(value, path)


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"{path.lstrip('/')} is a {type(value).__name__}, which a checkpoint does not hold: make it plain"
    )


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    special: dict[str, Callable[[list[Any]], Any]] = {
        _TUPLE: lambda items: tuple(_with_tensors(item, tensors) for item in items),
        _DICT: lambda items: {key: _with_tensors(item, tensors) for key, item in items},
    }
    for mark, make in special.items():
        if value.keys() == {mark}:
            return make(value[mark])
    return {key: _with_tensors(item, tensors) for key, item in value.items()}


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def capture_rng() -> dict[str, Any]:
    """Return torch's random state on the CPU, and on each CUDA device that is in use."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Go back to a random state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
