"""Journal of model answers, appended and synced one line at a time, so that no request is sent twice.

A resumed stage is replayed from its beginning, with stored answers taken from the journal. The key of a line is
a hash of the model and the complete request, so an answer is never used for another request. A killed process
truncates at most the last line; it is dropped when the file is opened, and the request is sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from modelstack.errors import UserError
from modelstack.files import whole_lines
from modelstack.preferences.constitution.asking import Chooser, Turn, Unanswered, Writer

_ANSWER, _UNANSWERED = "answer", "unanswered"


class Journal:
    """Journal file, used by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Read the stored answers; the file is closed between writes.

        Raises:
            UserError: A line is not an answer, so the file is not a journal.
        """
        self._path = path
        self._kept = _read(path)
        self._file = anyio.Lock()
        self._asking: dict[str, anyio.Lock] = {}
        """Lock per request: if two tasks send the same request, the second waits for the answer to the first."""

    async def once(self, request: Mapping[str, Any], ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a request, sending the request only if no answer is stored.

        Args:
            request: Complete request, serialisable as JSON.
            ask: Sends the request and returns an answer that is serialisable as JSON.

        Raises:
            Unanswered: The model cannot answer, now or when it was first asked.
        """
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        async with self._asking.setdefault(key, anyio.Lock()):
            if key not in self._kept:
                try:
                    line = {"key": key, _ANSWER: await ask()}
                except Unanswered as error:
                    line = {"key": key, _UNANSWERED: str(error)}
                await self._append(line)
                self._kept[key] = line
        line = self._kept[key]
        if _UNANSWERED in line:
            raise Unanswered(line[_UNANSWERED])
        return line[_ANSWER]

    async def _append(self, line: Mapping[str, Any]) -> None:
        # A cancelled task must still store its answer as a whole line.
        with anyio.CancelScope(shield=True):
            async with self._file:
                await anyio.to_thread.run_sync(self._write, json.dumps(line) + "\n")

    def _write(self, line: str) -> None:
        with self._path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


class KeptWriter:
    """Writer with answers stored in a journal."""

    def __init__(self, writer: Writer, journal: Journal) -> None:
        """Wrap a writer."""
        self._writer = writer
        self._journal = journal

    @property
    def name(self) -> str:
        """Name of the wrapped writer."""
        return self._writer.name

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the stored answer, or ask the writer."""
        drawn = {"seed": seed, "max_tokens": max_tokens, "temperature": temperature}

        async def ask() -> str:
            text = await self._writer.write(turns, **drawn)
            return text.encode("utf-8", "replace").decode()  # unpaired surrogates cannot be written to a file

        return await self._journal.once(
            {"write": self.name, "turns": [asdict(turn) for turn in turns]} | drawn, ask
        )


class KeptChooser:
    """Chooser with answers stored in a journal."""

    def __init__(self, chooser: Chooser, journal: Journal) -> None:
        """Wrap a chooser."""
        self._chooser = chooser
        self._journal = journal

    @property
    def name(self) -> str:
        """Name of the wrapped chooser."""
        return self._chooser.name

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return the stored probabilities, or ask the chooser."""
        asked = [asdict(turn) for turn in turns]
        request = {"choose": self.name, "turns": asked, "options": list(options), "seed": seed}

        async def ask() -> list[float]:
            return list(await self._chooser.choose(turns, options, seed=seed))

        return tuple(await self._journal.once(request, ask))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            record = json.loads(line)
            if not (isinstance(record["key"], str) and (_ANSWER in record or _UNANSWERED in record)):
                raise KeyError(_ANSWER)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is not an answer of a model: move the file away, or give another folder"
            ) from error
        kept[record["key"]] = record
    return kept
