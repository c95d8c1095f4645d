"""What all inputs have in common: a path, a source and a licence by default, and the files they name."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from pydantic import BaseModel, Field

from modelstack.data.reading.limits import Limits
from modelstack.errors import UserError


class Input(BaseModel, frozen=True, extra="forbid"):
    """Where documents come from."""

    path: Path
    """A file, a folder, or a glob (`crawl/**/*.warc.gz`)."""
    source: str = ""
    """Of documents that do not say; by default the path's last name."""
    license: str = ""
    """Of documents that do not say."""
    limits: Limits = Field(default_factory=Limits)

    @property
    def source_name(self) -> str:
        """The source of documents that do not say."""
        return self.source or self.path.name


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files that a path names, sorted; those of a folder are the ones with such a name's end.

    Raises:
        UserError: There are none.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        # Links to files are taken: a hub's cache has nothing else.
        files = [file for file in files_below(path, takes_links=True) if file.name.lower().endswith(suffixes)]
        rule = f"whose name ends in {', '.join(suffixes)}"
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = sorted(file for file in files if file.is_file())
        rule = "of that name or glob"
    if not files:
        raise UserError(f"input {path}: there is no file {rule}; check the path")
    return files


def files_below(folder: Path, skipped_folders: tuple[str, ...] = (), takes_links: bool = False) -> list[Path]:
    """Return the regular files below a folder, sorted by path; hidden names are passed.

    Links to folders are never followed, links to files only if `takes_links`: what strangers packed may link to
    anything on this machine.
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
    """Return a file's name for ids: relative to the folder that the input names, or to a glob's fixed part."""
    folder = path if path.is_dir() else path.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def read_whole(file: Path, max_bytes: int) -> bytes | None:
    """Return a file's bytes, None if there are more than `max_bytes`; neither a link nor a pipe is opened.

    Raises:
        OSError: It cannot be read.
    """
    # Not blocking: a pipe that took the file's place since the folder was listed would hang the reader.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(max_bytes + 1)
    return None if len(content) > max_bytes else content
