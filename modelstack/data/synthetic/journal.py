"""What became of each attempt, a line each, on the disk before the next one begins.

A process that is killed leaves at most one line cut off; it is taken away, and its attempt is made again.
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
    """An open file of attempts; a context manager."""

    def __init__(self, path: Path) -> None:
        """Read what is there, cut off what is no whole line, and stand at the end.

        Raises:
            UserError: A whole line is no attempt.
        """
        self.path = path
        self.outcomes: dict[str, str] = {}
        """By key, of all attempts."""
        end = 0
        if path.exists():
            for attempt, line_end in _whole_lines(path):
                self.outcomes[attempt["key"]] = attempt["outcome"]
                end = line_end
        self._file = path.open("ab")
        self._file.truncate(end)

    def note(self, attempt: dict[str, Any]) -> None:
        """Add an attempt, with its `key` and `outcome`, and wait for the disk."""
        # Escapes alone: what a model wrote may hold characters that some readers take for the end of a line.
        self._file.write(json.dumps(attempt).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.outcomes[attempt["key"]] = attempt["outcome"]

    def attempts(self) -> Iterator[dict[str, Any]]:
        """Return all attempts, in the order in which they were made."""
        return (line for line, _ in _whole_lines(self.path))

    def __enter__(self) -> Journal:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Give each attempt, and where its line ends in the file."""
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
                    f"{path}, line {number}: no attempt of a run; remove the folder, or name another --out"
                )
            end += len(line)
            yield attempt, end
