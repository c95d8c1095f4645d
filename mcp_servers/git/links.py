"""Check for links below `.git`: git follows them for reading and writing, wherever they lead.

If the kernel confines the process (`reach.py`), git opens nothing outside the repository, and this check is
skipped. Otherwise a repository with links is refused; a file replaced by a link just after the check is not
detected.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import GIT_FOLDER, shown

# Commands that run here open nothing in these: hooks are disabled, submodules are not entered, and Git LFS and
# git-annex are separate programs. Hooks are often links to scripts of the working tree.
_NEVER_OPENED = frozenset({"hooks", "modules", "lfs", "annex"})
# Coarsest clock of common file systems: FAT has a resolution of two seconds.
_COARSEST_CLOCK_NS = 2_000_000_000
_MAX_ENTRIES = 500_000
"""Entries checked; about half a second, once."""

_Stamp = tuple[int, int, int]


class LinkCheck:
    """Scans one `.git`; folders that have not changed since the last scan are not read again."""

    def __init__(self, root: Path) -> None:
        """Prepare scans below `.git` of the working tree `root`."""
        self._folder = str(root / GIT_FOLDER)
        self._known: dict[str, tuple[_Stamp, Sequence[str]]] = {}

    def refuse_links(self) -> None:
        """Refuse a link anywhere below `.git`.

        Raises:
            ToolFailure: There is a link, too many entries, or a folder that cannot be read.
        """
        known: dict[str, tuple[_Stamp, Sequence[str]]] = {}
        waiting, n_entries = [self._folder], 0
        while waiting:
            folder = waiting.pop()
            try:
                stamp, is_settled = _stamp(folder)
                before = self._known.get(folder)
                if before is not None and before[0] == stamp:
                    folders = before[1]
                else:
                    folders, n_read = self._looked_through(folder)
                    n_entries += n_read
            except (FileNotFoundError, NotADirectoryError):  # git removes empty folders of references
                continue
            except OSError as error:
                name = shown(GIT_FOLDER + folder.removeprefix(self._folder))
                raise ToolFailure(f"{name!r} cannot be looked through: {error.strerror}.") from error
            if n_entries > _MAX_ENTRIES:
                raise ToolFailure(f"{GIT_FOLDER} has more than {_MAX_ENTRIES} files. Run `git gc` there first.")
            if is_settled:
                known[folder] = (stamp, folders)
            waiting += folders
        self._known = known

    def _looked_through(self, folder: str) -> tuple[list[str], int]:
        """Return the folders in a folder, and its number of entries."""
        is_top = folder == self._folder
        folders, n_entries = list[str](), 0
        with os.scandir(folder) as entries:
            for entry in entries:
                n_entries += 1
                if entry.is_symlink():
                    raise ToolFailure(_refusal(entry.path.removeprefix(self._folder)))
                if entry.is_dir(follow_symlinks=False) and not (is_top and entry.name in _NEVER_OPENED):
                    folders.append(entry.path)
        return folders, n_entries


def _stamp(folder: str) -> tuple[_Stamp, bool]:
    """Return a stamp that changes with a folder's entries, and whether the stamp is old enough to be trusted."""
    status = os.lstat(folder)
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return stamp, time.time_ns() - changed_ns > _COARSEST_CLOCK_NS


def _refusal(below: str) -> str:
    return (
        f"{shown(GIT_FOLDER + below)!r} is a link; a repository with links in {GIT_FOLDER} is not served, because "
        "git would read or write where they lead. Put a file or folder in its place."
    )
