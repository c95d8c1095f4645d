"""The index: one SQLite file with a full-text table (FTS5), which several servers may share.

A passage is a row of `words`, with the path and the headings beside its text, so a query may combine words of all
three. Write-ahead logging lets searches run while a refresh writes. Every change is one short transaction that
takes the lock when it begins, so `kill -9` leaves the index in the state between two transactions.

It is a cache that can be rebuilt from the folder. It contains the files' text, so only its user may read it. It
may be untrusted (`--index`), so all text read from it passes through the filter of hidden characters. Only paths
are read unfiltered, as bytes (`PATH`), since they identify files; they are escaped for display.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.hardening import reason_not_to_open
from mcp_servers.search import vector_table
from mcp_servers.search.facts import fact, set_fact
from mcp_servers.search.identifiers import parts_in
from mcp_servers.search.passages import Passage
from mcp_servers.search.policy import Status
from mcp_servers.search.visible import decoded, visible

# "aksi", agentkit search index: distinguishes it from other files
# (https://sqlite.org/pragma.html#pragma_application_id).
APPLICATION_ID = 0x616B7369
# Incremented when the schema or the computation of its columns changes; an older index is then rebuilt.
SCHEMA_VERSION = 4
NAME_CHARS = 32
FILE_MODE = 0o600
FOLDER_MODE = 0o700
# Seconds to wait for another server's transaction, which takes about a second at most.
BUSY_S = 20.0
# Virtual machine steps between checks of the deadline.
STEPS_PER_CHECK = 10_000

SCHEMA = (
    "CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE files(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, "
    "stamp TEXT NOT NULL, is_settled INTEGER NOT NULL, "
    "status TEXT NOT NULL, problem TEXT NOT NULL, text_bytes INTEGER NOT NULL)",
    "CREATE TABLE passages(id INTEGER PRIMARY KEY AUTOINCREMENT, file_id INTEGER NOT NULL, page INTEGER NOT NULL, "
    "first_line INTEGER NOT NULL, last_line INTEGER NOT NULL)",
    "CREATE INDEX passages_of_file ON passages(file_id)",
    "CREATE VIRTUAL TABLE words USING fts5("
    "path, heading, body, parts, tokenize = 'unicode61 remove_diacritics 2')",
    # A word in a path or heading is more significant than one in the text. Measured on agentkit's own files: the
    # definition of a name ranks first in 79 of 100 searches for the name (51 with equal weights). A function whose
    # documentation contains the four words of a query ranks first in 70 (74).
    "INSERT INTO words(words, rank) VALUES ('rank', 'bm25(2.0, 5.0, 1.0, 1.0)')",
    *vector_table.SCHEMA,
)
TABLES = ("facts", "files", "passages", "words", *vector_table.TABLES)
PATH = "CAST(files.path AS BLOB)"
"""A path in a SELECT, unfiltered; `path_of` decodes it."""


@dataclass(frozen=True)
class IndexedFile:
    """A file as stored in the index."""

    path: str
    kind: str
    stamp: str
    is_settled: bool
    """True if an equal stamp proves an equal file; otherwise the next refresh reads the file again."""
    status: Status
    problem: str
    passages: Sequence[Passage]

    @property
    def text_bytes(self) -> int:
        """Bytes of text that the index holds for the file."""
        return sum(len(passage.text.encode()) for passage in self.passages)


class Index:
    """The index file of one folder."""

    def __init__(self, path: Path, subject: Mapping[str, object]) -> None:
        """Open the index, or create it.

        Args:
            path: Index file; its folder exists.
            subject: Description of the indexed content; an index with another subject is refused.

        Raises:
            StartError: The file cannot be used.
        """
        self._path = path
        self._subject = json.dumps(subject, sort_keys=True)
        self.prepare()

    def prepare(self) -> None:
        """Create the file if it is missing, for example after the cache was emptied.

        Raises:
            StartError: The file is not an index of this folder, is damaged, or cannot be written.
        """
        shown = repr(str(self._path))
        try:
            _create_file(self._path)
            self._create_tables()
            if stat.S_IMODE(os.stat(self._path).st_mode) != FILE_MODE:  # only now known to be an index
                os.chmod(self._path, FILE_MODE)
        except OSError as error:
            raise StartError(f"cannot use the index {shown}: {error.strerror}.") from error
        except sqlite3.Error as error:
            raise StartError(
                f"cannot use {shown} as an index: {visible(str(error))}. Name another --index; a damaged index "
                "can be deleted."
            ) from error

    @contextmanager
    def reading(self, timeout_s: float) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees one state of the index.

        Raises:
            ToolFailure: Reading takes too long, or the index cannot be read.
        """
        connection = None
        try:
            connection = self._connect()
            deadline = time.monotonic() + timeout_s
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_CHECK)
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            if str(error) == "interrupted":
                raise ToolFailure(f"This took longer than {timeout_s:g} s. Use fewer and rarer words.") from error
            reason = visible(str(error))  # it may quote the file
            raise ToolFailure(f"The index cannot be read ({reason}). Call refresh, or tell the user.") from error
        finally:
            if connection is not None:
                connection.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction that is committed unless the body fails."""
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back an uncommitted transaction

    def _connect(self) -> sqlite3.Connection:
        if (reason := reason_not_to_open(str(self._path))) is not None:
            raise sqlite3.OperationalError(reason)
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None
        )
        connection.text_factory = decoded
        connection.execute("PRAGMA trusted_schema = OFF")
        # With write-ahead logging a power failure may lose the last transactions, never the index.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _create_tables(self) -> None:
        with closing(self._connect()) as connection:
            self._check_application(connection)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                self._fill_schema(connection)
            if fact(connection, "subject") != self._subject:
                raise StartError(
                    f"{str(self._path)!r} is the index of another folder, or was made with other --include, "
                    "--exclude or --no-gitignore. Name another --index, or delete it."
                )
            connection.execute("COMMIT")

    def _check_application(self, connection: sqlite3.Connection) -> None:
        # The order matters: another server that has created tables meanwhile set the number in the same
        # transaction.
        n_tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if n_tables and application != APPLICATION_ID:
            raise StartError(f"{str(self._path)!r} is another program's database. Name another --index.")

    def _fill_schema(self, connection: sqlite3.Connection) -> None:
        for table in TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        set_fact(connection, "subject", self._subject)


def default_path(subject: Mapping[str, object]) -> Path:
    """Return the path of the index in the user's cache, for one folder and choice of files.

    Raises:
        StartError: Its folder cannot be created.
    """
    name = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:NAME_CHARS]
    return cache_folder() / f"{name}.db"


def cache_folder() -> Path:
    """Return the folder of the indexes in the user's cache, created if missing.

    Raises:
        StartError: The folder cannot be created.
    """
    folder = platformdirs.user_cache_path("agentkit") / "search"
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot create {str(folder)!r} for the index: {error.strerror}. Use --index.") from error
    return folder


def path_of(data: bytes) -> str:
    """Decode a path selected by `PATH`."""
    return data.decode("utf-8", "replace")


def put_file(connection: sqlite3.Connection, file: IndexedFile) -> None:
    """Store a file in place of its old version; skipped if another server has stored the same version.

    Passages with the content of old ones keep the vectors of these.
    """
    row = connection.execute("SELECT stamp, is_settled FROM files WHERE path = ?", (file.path,)).fetchone()
    if row == (file.stamp, 1) and file.is_settled:
        return
    kept = vector_table.embedded_passages(connection, file.path)
    _remove_text(connection, file.path)
    cursor = connection.execute(
        "INSERT INTO files(path, kind, stamp, is_settled, status, problem, text_bytes) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (file.path, file.kind, file.stamp, file.is_settled, file.status, file.problem, file.text_bytes),
    )
    file_id = cursor.lastrowid
    path_words = f"{file.path} {parts_in(file.path)}"
    for passage in file.passages:
        place = (file_id, passage.page, passage.first_line, passage.last_line)
        cursor.execute("INSERT INTO passages(file_id, page, first_line, last_line) VALUES (?, ?, ?, ?)", place)
        passage_id = cursor.lastrowid or 0
        row = (passage_id, path_words, passage.heading, passage.text, parts_in(passage.text))
        cursor.execute("INSERT INTO words(rowid, path, heading, body, parts) VALUES (?, ?, ?, ?, ?)", row)
        if same := kept.get((passage.heading, passage.text)):
            vector_table.move_vectors(connection, same.pop(), passage_id)
    vector_table.remove_vectors(connection, [old for same in kept.values() for old in same])


def remove_file(connection: sqlite3.Connection, path: str) -> None:
    """Remove a file from the index, if it is there."""
    kept = vector_table.embedded_passages(connection, path)
    vector_table.remove_vectors(connection, [passage_id for same in kept.values() for passage_id in same])
    _remove_text(connection, path)


def _remove_text(connection: sqlite3.Connection, path: str) -> None:
    ids = "SELECT passages.id FROM passages JOIN files ON files.id = file_id WHERE path = ?"
    connection.execute(f"DELETE FROM words WHERE rowid IN ({ids})", (path,))
    connection.execute(f"DELETE FROM passages WHERE id IN ({ids})", (path,))
    connection.execute("DELETE FROM files WHERE path = ?", (path,))


def _create_file(path: Path) -> None:
    """Create an empty file that only its user can read, unless it exists.

    An existing file is not opened: closing it again would release the locks of this process's connections to it
    (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise StartError(f"cannot use the index {str(path)!r}: it is not a regular file.") from None
