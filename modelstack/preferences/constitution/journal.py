"""Answers of models, kept as they come: one line appended and synced for each, so nothing is asked twice.

A stage is replayed from its beginning when it goes on; requests that were answered are answered from here. The key
of a line is a hash of who was asked and of all that was asked, so an answer to another request is never taken for
it. A kill cuts the last line short at most: it is dropped when the file is opened, and asked again.
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
from modelstack.preferences.constitution.asking import Chooser, Turn, Unanswered, Writer

_ANSWER, _UNANSWERED = "answer", "unanswered"


class Journal:
    """One file of answers, open for one process at a time."""

    def __init__(self, path: Path) -> None:
        """Read what is there; nothing is open between two answers.

        Raises:
            UserError: A line is no answer, so the file is not one of these.
        """
        self._path = path
        self._kept = _read(path)
        self._file = anyio.Lock()
        self._asking: dict[str, anyio.Lock] = {}
        """Two tasks may ask the same at once: the second waits for the first one's answer."""

    async def once(self, request: Mapping[str, Any], ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a request, asked for if it is not kept.

        Args:
            request: JSON-able; all that the answer depends on.
            ask: Returns something JSON-able.

        Raises:
            Unanswered: It has no answer, now or when it was asked first.
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
        # A cancelled task does not leave before the answer that it has is kept, and its line whole.
        with anyio.CancelScope(shield=True):
            async with self._file:
                await anyio.to_thread.run_sync(self._write, json.dumps(line) + "\n")

    def _write(self, line: str) -> None:
        with self._path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


class KeptWriter:
    """A writer whose answers a journal keeps."""

    def __init__(self, writer: Writer, journal: Journal) -> None:
        """Stand before a writer."""
        self._writer = writer
        self._journal = journal

    @property
    def name(self) -> str:
        """The writer's."""
        return self._writer.name

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the kept answer, or the writer's."""
        drawn = {"seed": seed, "max_tokens": max_tokens, "temperature": temperature}

        async def ask() -> str:
            text = await self._writer.write(turns, **drawn)
            return text.encode("utf-8", "replace").decode()  # halves of surrogate pairs fit no file

        return await self._journal.once(
            {"write": self.name, "turns": [asdict(turn) for turn in turns]} | drawn, ask
        )


class KeptChooser:
    """A chooser whose answers a journal keeps."""

    def __init__(self, chooser: Chooser, journal: Journal) -> None:
        """Stand before a chooser."""
        self._chooser = chooser
        self._journal = journal

    @property
    def name(self) -> str:
        """The chooser's."""
        return self._chooser.name

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return the kept probabilities, or the chooser's."""
        asked = [asdict(turn) for turn in turns]
        request = {"choose": self.name, "turns": asked, "options": list(options), "seed": seed}

        async def ask() -> list[float]:
            return list(await self._chooser.choose(turns, options, seed=seed))

        return tuple(await self._journal.once(request, ask))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    kept: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
            if not (isinstance(record["key"], str) and (_ANSWER in record or _UNANSWERED in record)):
                raise KeyError(_ANSWER)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is no answer of a model: move the file away, or give another folder"
            ) from error
        kept[record["key"]] = record
    return kept
