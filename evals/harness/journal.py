"""Journal of an evaluation: one JSON line per run, synced to disk.

A killed process loses only unfinished cases.

The journal is the source of the Inspect log, the scores and the tables. A line without a line end was cut by a
crash; it is dropped when the file is opened again. A case that was run again after a failure has two lines; the
later line counts.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from agentkit.errors import UserError
from evals.case import Run, run_from_json, run_to_json

JOURNAL_FILE = "runs.jsonl"
RunKey = tuple[str, int]
"""Case id and epoch (from 1)."""


class Journal:
    """A journal open for writing; only one process may hold it."""

    def __init__(self, folder: Path) -> None:
        """Open the journal in `folder`, create it if missing, and read its runs.

        Raises:
            UserError: another process holds the journal, or a line is not a run.
        """
        path = folder / JOURNAL_FILE
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{path} is being written by another process; wait for it or stop it.") from error
        try:
            self._drop_torn_line()
            self.runs = read_journal(folder)
        except BaseException:
            self._file.close()
            raise

    def add(self, run: Run) -> None:
        """Append a run; it is on disk when this method returns."""
        self._file.write(run_to_json(run).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.runs[run.case_id, run.epoch] = run

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and release the lock."""
        self._file.close()

    def _drop_torn_line(self) -> None:
        """Truncate the file after its last line end."""
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)


def read_journal(folder: Path) -> dict[RunKey, Run]:
    """Read the runs of a journal: the latest of each case and epoch; empty if there is no journal.

    Raises:
        UserError: a line is not a run.
    """
    path = folder / JOURNAL_FILE
    runs: dict[RunKey, Run] = {}
    if not path.exists():
        return runs
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                run = run_from_json(line)
            except ValidationError as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"{path}, line {number} is not a run: {reason}.") from error
            runs[run.case_id, run.epoch] = run
    return runs
