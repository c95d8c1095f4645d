"""Journal of attempts: one line per outcome, synced to disk before the next attempt.

A killed process leaves at most one partial line. It is removed, and its attempt is repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from modelstack.errors import UserError

MAX_LINE_BYTES = 1 << 26


class Journal:
    """Open file of attempts; a context manager."""

    def __init__(self, path: Path) -> None:
        """Read existing attempts, remove a partial last line, and open the file for appending.

        Raises:
            UserError: A complete line is not an attempt.
        """
        self.path = path
        self.outcomes: dict[str, str] = {}
        """Outcome of every attempt, by key."""
        end = 0
        if path.exists():
            for attempt, line_end in _whole_lines(path):
                self.outcomes[attempt["key"]] = attempt["outcome"]
                end = line_end
        self._file = path.open("ab")
        self._file.truncate(end)

    def note(self, attempt: dict[str, Any]) -> None:
        """Append an attempt with its `key` and `outcome`, and sync it to disk."""
        # ASCII escapes only: generated text may contain characters that some readers treat as line ends.
        self._file.write(json.dumps(attempt).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.outcomes[attempt["key"]] = attempt["outcome"]

    def attempts(self) -> Iterator[dict[str, Any]]:
        """Return all attempts in the order in which they were made."""
        return (line for line, _ in _whole_lines(self.path))

    def __enter__(self) -> Journal:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each attempt with the offset of its line's end."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                return
            try:
                attempt = json.loads(line)
            except (ValueError, RecursionError):
                attempt = None
            if not isinstance(attempt, dict) or not all(type(attempt.get(k)) is str for k in ("key", "outcome")):
                raise UserError(
                    f"{path}, line {number}: not an attempt of a run; remove the folder, or name another --out"
                )
            end += len(line)
            yield attempt, end
