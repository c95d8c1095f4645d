"""Entries that a search leaves out: git's own, and those named by `.gitignore` and `.ignore` files on its walk.

The ignore files are read through the walk's descriptors. They only affect searches: permission to read a file
never depends on them. An unusable file (a link, too large, not text) hides nothing: it is counted, and the walk
continues without it.
"""

from __future__ import annotations

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import GIT_FOLDER, PathParts
from mcp_servers.filesystem.root import Root, kind_of, lstat, open_file
from mcp_servers.gitignore.rules import MAX_FILE_BYTES, UnusableRules
from mcp_servers.gitignore.scope import FILE_NAMES, NOTHING_IGNORED, Scope

MAX_BYTES_OF_A_WALK = 4 * 1024 * 1024
"""Bytes of ignore files that one walk reads: 64 of the largest, taking about 4 s, or thousands of usual ones."""


def leaves_out(scope: Scope, name: str, *, is_folder: bool) -> bool:
    """Return whether a search leaves out the entry with this name.

    No rule re-includes `.git`, neither the folder nor the file that replaces it in a linked working tree.
    """
    return name == GIT_FOLDER or scope.ignores(name, is_folder=is_folder)


class IgnoreFiles:
    """The ignore files of one walk."""

    def __init__(self) -> None:
        """Start with no file read."""
        self.n_unusable = 0
        """Ignore files on the walk that could not be used."""
        self._n_bytes_left = MAX_BYTES_OF_A_WALK

    def above(self, root: Root, parts: PathParts) -> Scope:
        """Return the rules of the files above a folder, for the folder and its contents.

        Raises:
            ToolFailure: A component is missing, a link, not a folder, or unreadable.
        """
        scope = NOTHING_IGNORED
        for depth, name in enumerate(parts):
            with root.folder(parts[:depth]) as folder:
                scope = self.within(folder, parts[:depth], scope).entered(name)
        return scope

    def within(self, folder: int, parts: PathParts, scope: Scope) -> Scope:
        """Return `scope` extended by the ignore files in the open `folder`."""
        for name in FILE_NAMES:
            try:
                data = _content(folder, (*parts, name))
                if data:
                    self._pay_for(data)
                    scope = scope.with_file(name, data)
            except (OSError, ToolFailure, UnusableRules):
                self.n_unusable += 1
        return scope

    def _pay_for(self, data: bytes) -> None:
        self._n_bytes_left -= len(data)
        if self._n_bytes_left < 0:
            raise UnusableRules("too many rules in one walk")


def _content(folder: int, parts: PathParts) -> bytes:
    """Return the beginning of the file, one byte more than the limit; empty if the file does not exist."""
    status = lstat(folder, parts[-1])
    if status is None:
        return b""
    if kind_of(status) != "file":
        raise UnusableRules("no regular file")
    with open_file(folder, parts) as file:
        return file.read(MAX_FILE_BYTES + 1)
