"""Common part of all inputs: path, default source and licence, and the files found at the path."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from pydantic import BaseModel, Field

from modelstack.data.reading.limits import Limits
from modelstack.errors import UserError


class Input(BaseModel, frozen=True, extra="forbid"):
    """An input: a path and defaults for its documents."""

    path: Path
    """A file, a folder, or a glob (`crawl/**/*.warc.gz`)."""
    source: str = ""
    """Source of documents that state none; default: the last component of the path."""
    license: str = ""
    """Licence of documents that state none."""
    limits: Limits = Field(default_factory=Limits)

    @property
    def source_name(self) -> str:
        """Source of documents that state none."""
        return self.source or self.path.name


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a path, sorted; for a folder, the files in it with one of the suffixes.

    Raises:
        UserError: There are none.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        # Links to files are accepted: the cache of a model hub contains only links.
        files = [file for file in files_below(path, takes_links=True) if file.name.lower().endswith(suffixes)]
        rule = f"with a name that ends in {', '.join(suffixes)}"
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = sorted(file for file in files if file.is_file())
        rule = "of that name or glob"
    if not files:
        raise UserError(f"input {path}: no file {rule}; check the path")
    return files


def files_below(folder: Path, skipped_folders: tuple[str, ...] = (), takes_links: bool = False) -> list[Path]:
    """Return the regular files below a folder, sorted by path, without hidden names.

    Links to folders are never followed, links to files only with `takes_links`: a link in an untrusted archive may
    point anywhere on this machine.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped_folders]
        for name in names:
            file = Path(place, name)
            if not name.startswith(".") and (takes_links or not file.is_symlink()) and file.is_file():
                found.append(file)
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def name_in(path: Path, file: Path) -> str:
    """Return the name of a file for ids, relative to the input's folder or to the fixed part of its glob."""
    folder = path if path.is_dir() else path.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def read_whole(file: Path, max_bytes: int) -> bytes | None:
    """Return the content of a file, None if it exceeds `max_bytes`; never opens a link or blocks on a pipe.

    Raises:
        OSError: The file cannot be read.
    """
    # Non-blocking: a pipe that replaced the file after the listing would hang the reader.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(max_bytes + 1)
    return None if len(content) > max_bytes else content
