"""The store's file: identified before SQLite touches it, created atomically, opened hardened.

SQLite may change a file by opening it (a hot journal is rolled back, a log is copied in). So a file is identified
by its first 100 bytes (https://sqlite.org/fileformat.html#the_database_header), and another program's file is
refused.

A new store is made under a temporary name and then linked to its own: the file is complete or missing, and of two
servers that start at once only one creates it. Log files beside a missing store are refused: SQLite would replay
them into the new one.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.hardening import harden, reason_not_to_open
from mcp_servers.memory.policy import Limits, shown
from mcp_servers.memory.schema import APPLICATION_ID, FORMAT_VERSION, check_schema, create_schema

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
USER_VERSION_AT, APPLICATION_ID_AT = 60, 68
SIDECARS = ("-journal", "-wal", "-shm")
# The file holds what its owner told an assistant; SQLite gives its log files the same mode.
FILE_MODE = 0o600
TOKEN_BYTES = 6
PAGE_BYTES = 4096
CACHE_KIB = 8 * 1024
# The longest value is a search document: MAX_OBSERVATIONS texts of MAX_TEXT_CHARS, 4 bytes a character.
MAX_VALUE_BYTES = 8 * 1024 * 1024
# Virtual machine steps between checks of the deadline: about 0.1 ms of work each.
STEPS_PER_CHECK = 1_000


def create_if_absent(path: Path) -> None:
    """Create an empty store, readable only by its owner, unless the file exists.

    Raises:
        StartError: The store cannot be created there.
    """
    if os.path.exists(path):
        return
    if not os.path.isdir(path.parent):
        raise StartError(f"the folder {str(path.parent)!r} does not exist; create it first.")
    remains = [path.name + suffix for suffix in SIDECARS if os.path.lexists(f"{path}{suffix}")]
    if remains:
        raise StartError(f"{path.name!r} is missing, but {remains[0]!r} of an earlier store is there; remove it.")
    temporary = path.with_name(f".mcp-tmp-{secrets.token_hex(TOKEN_BYTES)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        _fill(temporary)
        with suppress(FileExistsError):  # another server has created an equal store first
            os.link(temporary, path)
    except (OSError, sqlite3.Error) as error:
        raise StartError(f"cannot create {str(path)!r}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refusal(path: Path) -> str | None:
    """Return why the file is not a store of this server, or None; reads only the header."""
    if not os.path.isfile(path):
        return "is not a file" if os.path.exists(path) else "does not exist"
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        return f"cannot be read: {os.strerror(error.errno or 0).lower()}"
    if not header.startswith(MAGIC) or len(header) < HEADER_BYTES:
        return "is not a memory store (and not an SQLite database); it is left as it is"
    if _big_endian(header, APPLICATION_ID_AT) != APPLICATION_ID:
        return "is another program's SQLite database; it is left as it is"
    version = _big_endian(header, USER_VERSION_AT)
    if version != FORMAT_VERSION:
        return f"is a memory store of format {version}; this server knows format {FORMAT_VERSION}"
    return None


@contextmanager
def transaction(
    path: Path, limits: Limits, *, write: bool, read_only_file: bool = False, deleting: bool = False
) -> Iterator[sqlite3.Connection]:
    """Yield a hardened connection in one transaction: committed on exit, rolled back if the body fails.

    Args:
        path: File of the store.
        limits: Limits of the store.
        write: Whether to take the write lock now, so that values read are still true when others are written.
        read_only_file: Whether to open the file for reading only. (Otherwise readers, too, clean up the log.)
        deleting: Whether the size may use the reserve for deletions.

    Raises:
        ToolFailure: The file is another program's, damaged, full, or locked by another process.
    """
    reason = refusal(path)
    if reason:
        raise ToolFailure(f"The store {reason}.")
    if (reason := reason_not_to_open(str(path))) is not None:
        raise ToolFailure(f"The store is not opened: {reason}.")
    connection = None
    try:
        uri = f"file:{quote(str(path))}?mode={'ro' if read_only_file else 'rw'}"
        # SQLite's busy timeout: how long to wait for another process that writes.
        connection = sqlite3.connect(uri, uri=True, timeout=limits.timeout_s, isolation_level=None)
        _harden(connection, limits, write=write, deleting=deleting)
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        deadline = time.monotonic() + limits.timeout_s
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_CHECK)
        check_schema(connection)
        yield connection
        connection.execute("COMMIT")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: broken bytes in a message
        raise ToolFailure(explain(error, limits)) from error
    finally:
        if connection is not None:
            connection.close()


def explain(error: sqlite3.Error | UnicodeDecodeError, limits: Limits) -> str:
    """Return the explanation of an SQLite error for the calling model."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        mebibytes = limits.max_store_bytes / 2**20
        return (
            f"The store is full ({mebibytes:g} MiB) or the disk is; nothing was saved. "
            "Ask the user to raise --max-mb or to start a new store."
        )
    if code == sqlite3.SQLITE_BUSY:
        return "Another program keeps the store locked; nothing was changed. Try again."
    if code == sqlite3.SQLITE_INTERRUPT:
        return f"This took longer than {limits.timeout_s:g} s and was stopped; nothing was changed. Ask for less."
    return f"The store cannot be used: {shown(str(error)).rstrip('.')}. Nothing was changed; tell the user."


def _harden(connection: sqlite3.Connection, limits: Limits, *, write: bool, deleting: bool) -> None:
    harden(connection, heap_bytes=limits.heap_bytes, cache_kib=CACHE_KIB, write=write)
    max_bytes = limits.max_store_bytes + (limits.delete_reserve_bytes if deleting else 0)
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA max_page_count = {max_bytes // page_bytes}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 5)


def _fill(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        create_schema(connection)
        # WAL is stored in the file: readers and one writer do not block each other, and a commit is one append.
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _big_endian(header: bytes, start: int) -> int:
    return int.from_bytes(header[start : start + 4], "big")
