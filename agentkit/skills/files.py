"""The files of a skill as bytes, read once: nothing outside of the folder, nothing unbounded.

A skill is a folder that somebody else may have written. Its files are opened relative to descriptors of their
folders and without following links, so no name leads out of the skill, also while the folder is being changed. The
same bytes are hashed, shown to the model and run: a file that changes after its check has no effect.

Not part of a skill: version control and caches (`IGNORED_NAMES`), which change without the skill. Such files are
neither hashed nor shown nor run. The folder itself may be a link, as installers make them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agentkit.basics.hidden import has_hidden

IGNORED_NAMES = frozenset({".git", ".hg", ".svn", "__pycache__", ".DS_Store"})
"""Names of files and folders that are not part of a skill."""
MAX_FILES = 2_000
MAX_FILE_BYTES = 16 << 20
MAX_SKILL_BYTES = 64 << 20
MAX_DEPTH = 8
"""Limits of one skill: number of files and folders, bytes of a file, bytes of all, folders inside folders."""
_PIECE_BYTES = 1 << 20
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# Opening a FIFO must not wait for a writer. The flag has no effect on regular files.
_FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class SkillRefused(ValueError):
    """A skill cannot be used; the message names the rule and the fix."""


@dataclass(frozen=True, slots=True)
class SkillFile:
    """A file of a skill."""

    path: str
    """Path below the skill's folder, with slashes."""
    data: bytes
    is_executable: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class SkillFiles:
    """All files of a skill, sorted by path."""

    files: tuple[SkillFile, ...]

    @cached_property
    def by_path(self) -> Mapping[str, SkillFile]:
        """The files by path."""
        return {each.path: each for each in self.files}

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each file by path; of an executable file with `+x` behind it."""
        return {each.path: each.sha256 + ("+x" if each.is_executable else "") for each in self.files}

    @cached_property
    def sha256(self) -> str:
        """Hash of the skill: paths, bytes and executable flags of all files."""
        return digest_of(self.digests)

    def write_to(self, folder: Path) -> None:
        """Write the files below an empty folder, readable and, if they were, executable."""
        for each in self.files:
            path = folder / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.data)
            path.chmod(0o555 if each.is_executable else 0o444)


def digest_of(digests: Mapping[str, str]) -> str:
    """Return the hash of a skill from the digests of its files."""
    canonical = json.dumps(dict(digests), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_files(folder: Path) -> SkillFiles:
    """Read all files of a skill.

    Raises:
        SkillRefused: the folder cannot be read, is beyond a limit, or contains a link, a hard link, a device, a
            FIFO or a name with hidden characters.
    """
    if os.open not in os.supports_dir_fd:  # pragma: no cover - Windows
        raise SkillRefused("skills need descriptor-relative opens, which this system lacks; use Linux or macOS.")
    reading = _Reading()
    try:
        descriptor = os.open(folder, _FOLDER_FLAGS)
    except (OSError, ValueError) as error:
        raise SkillRefused(f"the folder cannot be opened: {_reason(error)}.") from error
    try:
        reading.read_folder(descriptor, "", 1)
    except OSError as error:
        raise SkillRefused(f"the folder cannot be read: {_reason(error)}.") from error
    finally:
        os.close(descriptor)
    return SkillFiles(tuple(sorted(reading.files, key=lambda each: each.path)))


class _Reading:
    """Files that were read so far, and the room that is left."""

    def __init__(self) -> None:
        self.files: list[SkillFile] = []
        self._n_entries = 0
        self._n_bytes = 0

    def read_folder(self, descriptor: int, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SkillRefused(f"{path!a} is {depth} folders deep; a skill has at most {MAX_DEPTH}.")
        with os.scandir(descriptor) as entries:
            names = [entry.name for entry in entries if self._counts(entry.name)]
        for name in sorted(names):
            self._read_entry(descriptor, name, f"{path}/{name}" if path else name, depth)

    def _counts(self, name: str) -> bool:
        """Whether an entry is part of the skill; counts it."""
        if name in IGNORED_NAMES:
            return False
        self._n_entries += 1
        if self._n_entries > MAX_FILES:
            raise SkillRefused(f"there are more than {MAX_FILES} files and folders; a skill has at most these.")
        if has_hidden(name) or "\n" in name or "\r" in name:
            raise SkillRefused(f"the file name {name!a} has hidden characters; rename the file.")
        return True

    def _read_entry(self, parent: int, name: str, path: str, depth: int) -> None:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise SkillRefused(f"{path!a} is a symbolic link; put the file itself in its place.")
        if stat.S_ISDIR(mode):
            descriptor = os.open(name, _FOLDER_FLAGS | _NO_FOLLOW, dir_fd=parent)
            try:
                self.read_folder(descriptor, path, depth + 1)
            finally:
                os.close(descriptor)
            return
        if not stat.S_ISREG(mode):
            raise SkillRefused(f"{path!a} is a device, a FIFO or a socket; a skill has files and folders only.")
        descriptor = os.open(name, _FILE_FLAGS | _NO_FOLLOW, dir_fd=parent)
        try:
            self._read_file(descriptor, path)
        finally:
            os.close(descriptor)

    def _read_file(self, descriptor: int, path: str) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SkillRefused(f"{path!a} was replaced while it was opened; read the skill again.")
        if status.st_nlink > 1:
            raise SkillRefused(
                f"{path!a} has {status.st_nlink} hard links, so it may also be a file outside of the skill; "
                f"copy the file."
            )
        room = min(MAX_FILE_BYTES, MAX_SKILL_BYTES - self._n_bytes)
        data = _bounded(descriptor, room + 1)
        if len(data) > room:
            what = f"{path!a} is larger than" if room == MAX_FILE_BYTES else "all files together are larger than"
            most = MAX_FILE_BYTES if room == MAX_FILE_BYTES else MAX_SKILL_BYTES
            raise SkillRefused(f"{what} {most >> 20} MiB, the limit of a skill; leave large data out of it.")
        self._n_bytes += len(data)
        self.files.append(SkillFile(path, data, bool(status.st_mode & stat.S_IXUSR)))


def _bounded(descriptor: int, most: int) -> bytes:
    """Return at most `most` bytes of an open file."""
    pieces: list[bytes] = []
    while most > 0 and (piece := os.read(descriptor, min(_PIECE_BYTES, most))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
