"""Folders of checkpoints: names, manifests, and selection of the newest complete checkpoint.

A checkpoint is a folder `step-00001200` with a manifest of sizes and checksums of its files: SHA-256, or CRC-32
for checkpoints in memory, which takes a quarter of the time. It is written to a temporary folder, synced and
renamed, so a process killed at any time leaves the previous one intact. Checksums are verified before anything
else is read, so a flipped bit and a truncated or missing file are detected; then the previous checkpoint is used.
Checksums protect against accidents only: an attacker who can write the folder can also write a manifest. For this
reason nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from modelstack.errors import UserError
from modelstack.files import sha256_of

MANIFEST = "manifest.json"
TENSORS, REST = "tensors.safetensors", "state.json"
"""Files of a single-process checkpoint."""
INDEX = "sharded.json"
"""Index file of a sharded checkpoint: the rank's file of each tensor, and all data that are not tensors."""
Kind = Literal["local", "sharded", "broken"]
Checksum = Literal["sha256", "crc32"]
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts on a file in a manifest."""

    n_bytes: int
    checksum: Checksum
    digest: str
    """Checksum in hexadecimal."""


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return Path(folder) / f"step-{step:08d}"


def checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """Return steps and folders of checkpoints, newest first; entries with other names are ignored."""
    if not Path(folder).is_dir():
        return []
    found = [(match, path) for path in Path(folder).iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def kind_of(path: Path) -> Kind:
    """Return the kind of store that wrote a checkpoint; "broken" if its main file is missing."""
    if (path / INDEX).exists():
        return "sharded"
    return "local" if (path / REST).exists() else "broken"


def remove_old(folder: str | Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and unfinished ones of killed processes.

    No checkpoint may be in progress: a store calls this when its checkpoint is complete.
    """
    for left in Path(folder).glob(".step-*"):
        shutil.rmtree(left)
    for _, old in checkpoints(folder)[keep:]:
        shutil.rmtree(old)


def check_keep(keep: int) -> None:
    """Check a number of checkpoints to keep.

    Raises:
        UserError: The number is not positive.
    """
    if keep < 1:
        raise UserError(f"keep is {keep}; it must be at least 1")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file of tensors, which must be contiguous and share no memory.

    Raises:
        OSError: The disk is full or fails.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:  # safetensors reports a full disk by this error instead of OSError
        raise OSError(f"{path.name}: {error}") from error


def crc32_of(path: Path) -> str:
    """Return the CRC-32 of a file's content."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


_DIGESTS: dict[Checksum, Callable[[Path], str]] = {"sha256": sha256_of, "crc32": crc32_of}


def file_facts(path: Path, checksum: Checksum = "sha256") -> dict[str, Any]:
    """Return the manifest entry of a file."""
    return {"bytes": path.stat().st_size, checksum: _DIGESTS[checksum](path)}


def write_manifest(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a checkpoint's manifest: entries by file name."""
    (path / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")


def read_manifest(path: Path) -> dict[str, FileFacts]:
    """Return the manifest entries by file name.

    Raises:
        UserError: The manifest is missing or invalid.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return {name: _facts(stored) for name, stored in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} has no valid manifest ({error})") from error


def _facts(stored: Mapping[str, Any]) -> FileFacts:
    named: list[Checksum] = [name for name in _DIGESTS if name in stored]
    [checksum] = named
    return FileFacts(int(stored["bytes"]), checksum, str(stored[checksum]))


def verify_files(path: Path, manifest: Mapping[str, FileFacts], names: Iterable[str]) -> None:
    """Verify some of a checkpoint's files against its manifest.

    Raises:
        UserError: A file is missing, has another size or checksum, or cannot be read.
    """
    for name in names:
        facts, file = manifest[name], path / name
        if not file.is_file():
            raise UserError(f"{path.name} lacks {name}")
        if file.stat().st_size != facts.n_bytes:
            raise UserError(
                f"{path.name}: {name} has {file.stat().st_size} bytes, but {facts.n_bytes} were written"
            )
        try:
            found = _DIGESTS[facts.checksum](file)
        except OSError as error:
            raise UserError(f"{path.name}: {name} cannot be read ({error})") from error
        if found != facts.digest:
            raise UserError(f"{path.name}: {name} differs from the written file ({facts.checksum})")


def none_is_whole(folder: str | Path, rejected: Iterable[str]) -> UserError:
    """Return the error for a folder that has only broken checkpoints; starting anew would hide them."""
    return UserError(f"no checkpoint in {folder} is complete: {'; '.join(rejected)}. Remove them to start anew")


def wrong_kind(path: Path, kind: Kind) -> UserError:
    """Return the error for a checkpoint of the other store."""
    if kind == "sharded":
        return UserError(
            f"{path} is a sharded checkpoint (ShardedStore), but this run uses local ones (LocalStore); "
            f"use a ShardedStore, which also works for one process, or another folder for the run"
        )
    return UserError(
        f"{path} is a local checkpoint (LocalStore), but this run uses sharded ones (ShardedStore); "
        f"resume in one process with a LocalStore, or use another folder for the run"
    )
