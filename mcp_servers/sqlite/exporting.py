"""Export files: written completely or not at all, never over an existing file, and in one folder.

The folder is opened once, when the server starts; files are made relative to its descriptor, links not followed.
Text goes to a temporary file, is synced, and gets its name by `link`, which fails if the name is taken. So there
is no race between a check and a rename, and an interrupted export is not visible under its name.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.root import open_start
from mcp_servers.long_calls import report_progress
from mcp_servers.sqlite.csv_text import check_file_name
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.results import Exported

WORKER = "mcp_servers.sqlite.csv_worker"
TEMPORARY_PREFIX = ".mcp-tmp-"
TOKEN_BYTES = 6
# The export may contain data that the database's own permissions hide from other users.
FILE_MODE = 0o600
# The child answers within a fraction of a second; on a busy machine it may take several to start.
ANSWER_TIMEOUT_S = 10.0
# Seconds beyond the statement's own limit, after which the child is killed: some operations check no deadline.
GRACE_S = 3.0
PROGRESS_INTERVAL_S = 0.5


class ExportFolder:
    """The open folder for exports."""

    def __init__(self, path: str) -> None:
        """Open `path`; links in it are the launcher's choice and are followed, once.

        Raises:
            StartError: The folder cannot be opened, or the system lacks `openat`.
        """
        self._fd = open_start(path, "the export folder")
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file that gets the name `name` after the body; nothing remains if the body fails.

        Raises:
            ToolFailure: The name is taken, or the file cannot be written.
        """
        self._check_free(name)
        temporary = TEMPORARY_PREFIX + secrets.token_hex(TOKEN_BYTES)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, FILE_MODE, dir_fd=self._fd), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
            os.fsync(self._fd)  # syncs the name itself
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise _taken(name) from error
            raise ToolFailure(f"Nothing was written: {os.strerror(error.errno or 0).lower()}.") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._fd)

    def _check_free(self, name: str) -> None:
        """Fail early with the error that `link` would give at the end of a long export."""
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            raise _taken(name)


class Exporter:
    """Exports one database, one export at a time, in a separate child so that queries can continue."""

    def __init__(self, folder: ExportFolder, database: str, limits: Limits) -> None:
        """Export from the file at `database` into `folder`."""
        self._folder = folder
        self._database = database
        self._limits = limits
        self._child = KillableChild(WORKER)
        self._running = threading.Lock()

    def export(self, sql: str, parameters: Sequence[Any], name: str) -> Exported:
        """Write all rows of a reading statement to a new file.

        Raises:
            ToolFailure: The statement or the name is wrong, or a limit was reached; no file remains.
        """
        check_file_name(name)
        if not self._running.acquire(blocking=False):
            raise ToolFailure("Another export is running. Try again when it is done.")
        try:
            with self._folder.new_file(name) as file:
                counts = self._write(file, sql, parameters)
                size_bytes = file.tell()
        except BaseException:
            self._child.close()  # stops its current statement
            raise
        finally:
            self._running.release()
        return Exported(file=name, size_bytes=size_bytes, **counts)

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    def _write(self, file: BinaryIO, sql: str, parameters: Sequence[Any]) -> dict[str, int]:
        limits = asdict(self._limits)
        self._ask("start", database=self._database, sql=sql, parameters=parameters, limits=limits)
        started = reported = time.monotonic()
        while True:
            part = self._ask("next")
            file.write(part.pop("text").encode())
            if part.pop("done"):
                return part
            now = time.monotonic()
            if now - started > self._limits.export_timeout_s + GRACE_S:
                raise self._too_long()
            if now - reported >= PROGRESS_INTERVAL_S:
                reported = now
                report_progress(now - started, self._limits.export_timeout_s, f"{part['rows']} rows")

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._child.call({"do": do, **arguments}, ANSWER_TIMEOUT_S)
        except ChildTimeout as error:
            raise self._too_long() from error
        except ChildCrash as error:
            raise ToolFailure("The statement made SQLite fail; nothing was written. Simplify it.") from error

    def _too_long(self) -> ToolFailure:
        return ToolFailure(
            f"The export ran longer than {self._limits.export_timeout_s:g} s and was stopped; "
            "nothing was written. Add a WHERE clause or a LIMIT."
        )


def _taken(name: str) -> ToolFailure:
    return ToolFailure(f"{name!r} exists already and is not replaced. Choose another name.")
