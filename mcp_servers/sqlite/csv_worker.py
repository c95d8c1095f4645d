"""Child process that runs an export's statement on a separate thread, so that it can report progress.

`start` starts an export. Each `next` returns the text that is ready, or none after a short wait, with the counts
so far. A failure of the statement is the answer to the next request. The parent writes the file, because a process
that reads a hostile database gets no folder to write to.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mcp_servers.child import answer_requests
from mcp_servers.failures import ToolFailure
from mcp_servers.sqlite.csv_text import count_formulas, csv_line
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.worker import Guard, begin_statement, explain_error, open_database

CHUNK_CHARS = 256 * 1024
# Chunks waiting to be fetched: the statement pauses if the parent is slower.
MAX_WAITING_CHUNKS = 4
# Seconds that `next` waits; the interval at which the parent can report progress and stop the export.
WAIT_S = 0.25
# Maximum size of one record as CSV; a chunk and its JSON are held in memory several times.
MAX_RECORD_CHARS = 8 * 1024 * 1024


class Export:
    """Conversion of one statement's rows to CSV."""

    def __init__(self, request: dict[str, Any], limits: Limits) -> None:
        """Start the statement."""
        self._request = request
        self._limits = replace(limits, timeout_s=limits.export_timeout_s)
        self._chunks: queue.Queue[str | None] = queue.Queue(MAX_WAITING_CHUNKS)
        self._failure = "The statement made SQLite fail; nothing was written. Simplify it."
        self._columns: list[str] = []
        self._rows = self._size_bytes = self._formula_cells = self._replaced_texts = 0
        # A daemon thread: if the parent is gone, this process exits whatever the statement does.
        threading.Thread(target=self._run, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Return the next text, or none after a short wait.

        Raises:
            ToolFailure: The statement failed.
        """
        try:
            text = self._chunks.get(timeout=WAIT_S)
        except queue.Empty:
            text = ""
        if text is None and self._failure:
            raise ToolFailure(self._failure)
        return {
            "text": text or "",
            "done": text is None,
            "columns": len(self._columns),
            "rows": self._rows,
            "formula_cells": self._formula_cells,
            "replaced_texts": self._replaced_texts,
        }

    def _run(self) -> None:
        guard = Guard(write=False)
        try:
            with open_database(self._request["database"], False, self._limits) as connection:
                connection.text_factory = self._decoded
                try:
                    self._write_rows(connection, guard)
                except sqlite3.Error as error:
                    raise ToolFailure(explain_error(error, guard, connection, self._limits)) from error
                except OverflowError as error:
                    raise ToolFailure(
                        "A parameter is outside SQLite's 64-bit integers. Pass it as text."
                    ) from error
        except ToolFailure as failure:
            self._failure = str(failure)
        except MemoryError:
            self._failure = "This needed too much memory and was stopped. Select fewer or smaller columns."
        else:
            self._failure = ""
        finally:
            self._chunks.put(None)

    def _write_rows(self, connection: sqlite3.Connection, guard: Guard) -> None:
        connection.set_authorizer(guard)
        cursor, self._columns = begin_statement(connection, self._request, self._limits)
        if not self._columns:
            raise ToolFailure("The statement gives no rows. Write a SELECT statement.")
        records = [self._record(self._columns)]
        size = len(records[0])
        for row in cursor:
            self._rows += 1
            if self._rows > self._limits.export_max_rows:
                raise ToolFailure(
                    f"The result has more than {self._limits.export_max_rows} rows; nothing was written. "
                    "Add a WHERE clause or a LIMIT."
                )
            records.append(self._record(row))
            size += len(records[-1])
            if size >= CHUNK_CHARS:
                self._chunks.put("".join(records))
                records, size = [], 0
        self._chunks.put("".join(records))

    def _record(self, values: Sequence[object]) -> str:
        n_chars = sum(2 * len(value) for value in values if isinstance(value, bytes | str))
        if n_chars > MAX_RECORD_CHARS:
            raise ToolFailure(
                f"Row {self._rows} is larger than {MAX_RECORD_CHARS // 2} bytes. Leave a column out."
            )
        record = csv_line(values)
        self._size_bytes += len(record.encode())
        if self._size_bytes > self._limits.export_max_bytes:
            raise ToolFailure(
                f"The result is larger than {self._limits.export_max_bytes} bytes; nothing was written. "
                "Add a WHERE clause, or select fewer columns."
            )
        self._formula_cells += count_formulas(values)
        return record

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self._replaced_texts += 1
            return data.decode("utf-8", "replace")


class Exports:
    """Runs at most one export at a time; a new one replaces the last."""

    def __init__(self) -> None:
        """Start without an export."""
        self._current: Export | None = None

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `{"do": "start", ...}` or `{"do": "next"}`.

        Raises:
            ToolFailure: The statement failed, or no export was started.
        """
        if request["do"] == "start":
            self._current = Export(request, Limits(**request["limits"]))
            return {}
        if self._current is None:
            raise ToolFailure("The export was stopped. Nothing was written; try again.")
        return self._current.next()


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(Exports().handle)
