"""Check of a SQLite file's application id and format version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SqliteFormat:
    """Format of a kind of SQLite file."""

    noun: str
    """Word for the file in an error message."""
    application_id: int
    """Distinguishes our files from other programs' databases."""
    version: int
    error: Callable[[str], Exception]

    def version_of(self, connection: sqlite3.Connection, path: Path) -> int:
        """Return the file's version; 0 if it is empty.

        Raises:
            Exception: the file belongs to another program, or has a later version; of the format's own type.
        """
        # One statement reads one state of the file: another process may be creating it concurrently.
        application, version, n_tables = connection.execute(
            "SELECT (SELECT application_id FROM pragma_application_id), "
            "(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
        ).fetchone()
        if application not in (0, self.application_id) or (application == 0 and n_tables):
            raise self.error(
                f"{str(path)!r} is another program's database; name another file for the {self.noun}."
            )
        if version > self.version:
            raise self.error(
                f"{self.noun} {str(path)!r} has format {version}; this version of agentkit reads up to "
                f"{self.version}. Use the version that wrote it."
            )
        return version
