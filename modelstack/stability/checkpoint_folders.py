"""Folders of checkpoints: their names, their manifests, and which of them is the newest one that is whole.

A checkpoint is a folder `step-00001200` with a manifest of sizes and checksums of its files: SHA-256, or CRC-32 of
those in memory, which takes a quarter of the time. It is written beside its place, synced and renamed, so a
process killed at any moment leaves the one before. A bit that flipped on the disk, a truncated or missing file,
shows when the checksums are compared, before anything else is read: then the one before is taken. They guard
against accidents; somebody who can write the folder can write a manifest too, which is why nothing in it is ever
unpickled.
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
"""The files of one process's checkpoint."""
INDEX = "sharded.json"
"""Of a checkpoint of several: which tensor lies in which rank's file, and all that is no tensor."""
Kind = Literal["local", "sharded", "broken"]
Checksum = Literal["sha256", "crc32"]
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a manifest says of a file."""

    n_bytes: int
    checksum: Checksum
    digest: str
    """In hexadecimal."""


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Return where a step's checkpoint lies."""
    return Path(folder) / f"step-{step:08d}"


def checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """Return steps and folders, newest first; what is not named like one is somebody else's."""
    if not Path(folder).is_dir():
        return []
    found = [(match, path) for path in Path(folder).iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def kind_of(path: Path) -> Kind:
    """Return which store wrote a checkpoint; one that lost its main file is broken."""
    if (path / INDEX).exists():
        return "sharded"
    return "local" if (path / REST).exists() else "broken"


def remove_old(folder: str | Path, keep: int) -> None:
    """Remove all but the newest checkpoints, and what killed processes left of unfinished ones.

    Nothing may be under way: a store calls this when its checkpoint is in place.
    """
    for left in Path(folder).glob(".step-*"):
        shutil.rmtree(left)
    for _, old in checkpoints(folder)[keep:]:
        shutil.rmtree(old)


def check_keep(keep: int) -> None:
    """Hold a number of checkpoints to keep against the rule.

    Raises:
        UserError: It is not positive.
    """
    if keep < 1:
        raise UserError(f"keep is {keep}; at least 1 checkpoint has to stay")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file of tensors, which share no memory and are contiguous.

    Raises:
        OSError: The disk is full or fails.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:  # what safetensors makes of a full disk is no OSError
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
    """Return what a manifest says of a file, as it is stored."""
    return {"bytes": path.stat().st_size, checksum: _DIGESTS[checksum](path)}


def write_manifest(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a checkpoint's manifest: facts by file name."""
    (path / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")


def read_manifest(path: Path) -> dict[str, FileFacts]:
    """Return what it says by file name.

    Raises:
        UserError: There is none, or it is none.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return {name: _facts(stored) for name, stored in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} has no sound manifest ({error})") from error


def _facts(stored: Mapping[str, Any]) -> FileFacts:
    named: list[Checksum] = [name for name in _DIGESTS if name in stored]
    [checksum] = named
    return FileFacts(int(stored["bytes"]), checksum, str(stored[checksum]))


def verify_files(path: Path, manifest: Mapping[str, FileFacts], names: Iterable[str]) -> None:
    """Hold some of a checkpoint's files against its manifest.

    Raises:
        UserError: A file is missing, of another size or another checksum, or cannot be read.
    """
    for name in names:
        facts, file = manifest[name], path / name
        if not file.is_file():
            raise UserError(f"{path.name} lacks {name}")
        if file.stat().st_size != facts.n_bytes:
            raise UserError(f"{path.name}: {name} has {file.stat().st_size} bytes, written were {facts.n_bytes}")
        try:
            found = _DIGESTS[facts.checksum](file)
        except OSError as error:
            raise UserError(f"{path.name}: {name} cannot be read ({error})") from error
        if found != facts.digest:
            raise UserError(f"{path.name}: {name} is not what was written ({facts.checksum})")


def none_is_whole(folder: str | Path, rejected: Iterable[str]) -> UserError:
    """Return the error for a folder with broken checkpoints only: starting anew would hide that."""
    return UserError(f"no checkpoint in {folder} is whole: {'; '.join(rejected)}. Remove them to start anew")


def wrong_kind(path: Path, kind: Kind) -> UserError:
    """Return the error for a checkpoint of the other store."""
    if kind == "sharded":
        return UserError(
            f"{path} is a sharded checkpoint (ShardedStore) and this run keeps local ones (LocalStore): "
            f"go on with a ShardedStore, which one process can have too, or give the run another folder"
        )
    return UserError(
        f"{path} is a local checkpoint (LocalStore) and this run keeps sharded ones (ShardedStore): "
        f"go on in one process with a LocalStore, or give the run another folder"
    )
