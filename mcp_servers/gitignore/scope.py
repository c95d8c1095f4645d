"""Ignore rules in force in one folder: those of its own files and of the files above it.

As in ripgrep, any `.ignore` file takes precedence over any `.gitignore`; among files of one name the deeper one
does. No rule is evaluated for the folders above an entry: an ignored folder is not entered, so nothing below it
can be re-included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mcp_servers.gitignore.rules import MAX_FILE_BYTES, Rules, UnusableRules

FileName = Literal[".gitignore", ".ignore"]
FILE_NAMES: tuple[FileName, ...] = (".gitignore", ".ignore")
MAX_BYTES_IN_FORCE = 2 * MAX_FILE_BYTES
"""Bytes of rules along one path, at any depth: two files of the largest size."""


@dataclass(frozen=True)
class _Reading:
    """Rules of one file, with their state in this folder."""

    rules: Rules
    state: int

    def after_name(self, name: bytes) -> int:
        return self.rules.after_name(self.state, name)

    def entered(self, name: bytes) -> _Reading:
        return replace(self, state=self.rules.in_folder(self.after_name(name)))


@dataclass(frozen=True)
class Scope:
    """Ignore rules that apply in one folder."""

    _gitignore: tuple[_Reading, ...] = ()
    """Rules, deepest first: the order of evaluation."""
    _ignore: tuple[_Reading, ...] = ()
    _n_bytes: int = 0
    """Total size of their files."""

    def with_file(self, file_name: FileName, data: bytes) -> Scope:
        """Return the scope with the rules of a file in this folder added.

        Raises:
            UnusableRules: The file is too large, alone or with those in force, has too many rules, or is not
                UTF-8.
        """
        n_bytes = self._n_bytes + len(data)
        if n_bytes > MAX_BYTES_IN_FORCE:
            raise UnusableRules("too many rules along one path")
        rules = Rules.parsed(data)
        added = _Reading(rules, rules.start)
        if file_name == ".ignore":
            return replace(self, _ignore=(added, *self._ignore), _n_bytes=n_bytes)
        return replace(self, _gitignore=(added, *self._gitignore), _n_bytes=n_bytes)

    def entered(self, name: str) -> Scope:
        """Return the scope inside the folder with this name."""
        read = _bytes(name)
        return replace(
            self,
            _gitignore=tuple(reading.entered(read) for reading in self._gitignore),
            _ignore=tuple(reading.entered(read) for reading in self._ignore),
        )

    def ignores(self, name: str, *, is_folder: bool) -> bool:
        """Return whether the entry with this name is ignored."""
        read = _bytes(name)
        for reading in (*self._ignore, *self._gitignore):
            verdict = reading.rules.verdict(reading.after_name(read), is_folder=is_folder)
            if verdict is not None:
                return verdict
        return False


NOTHING_IGNORED = Scope()


def _bytes(name: str) -> bytes:
    """Return a name as stored on disk; `os` returns bytes that are not UTF-8 as surrogates."""
    return name.encode("utf-8", "surrogateescape")
