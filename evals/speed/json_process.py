"""A child process that answers with JSON: one object when it is ready, then one per line of its input."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

MAX_ERROR_CHARS = 300
"""Maximum length of a quoted line of errors."""


class JsonProcess:
    """A running child; closing it kills it."""

    def __init__(
        self,
        command: Sequence[str],
        subject: str,
        environment: Mapping[str, str],
        *,
        errors: Path | None = None,
        limit_s: float = threading.TIMEOUT_MAX,
    ) -> None:
        """Start the process and wait until it is ready.

        Args:
            command: Command of the process.
            subject: Subject of messages.
            environment: Environment variables of the process.
            errors: File for the error stream; None: that of this process.
            limit_s: Seconds to the first object and to each answer, after which the process is killed.

        Raises:
            RuntimeError: the process ended before it was ready.
        """
        self._subject, self._errors, self._limit_s = subject, errors, limit_s
        stderr = errors.open("wb") if errors is not None else None
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        finally:
            if stderr is not None:
                stderr.close()
        try:
            self.first = self._answer()
            """The object that the process printed when it was ready."""
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._child.pid

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line; return the answer.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # reading the answer tells why
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process; closed ones are ignored."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.kill()
        self._child.wait()
        with suppress(BrokenPipeError):  # a line that the process did not read
            self._child.stdin.close()
        self._child.stdout.close()

    def __enter__(self) -> JsonProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        with self._limited() as has_expired:
            line = self._child.stdout.readline()
        if has_expired.is_set():
            raise RuntimeError(f"{self._subject} did not answer within {self._limit_s:g} s")
        if not line:
            raise RuntimeError(f"{self._subject} ended with {self._child.wait()}; {self._last_error()}")
        return json.loads(line)

    @contextmanager
    def _limited(self) -> Iterator[threading.Event]:
        """Kill the process and set the yielded event if the block takes longer than the limit."""
        has_expired = threading.Event()

        def expire() -> None:
            has_expired.set()
            self._child.kill()

        timer = threading.Timer(self._limit_s, expire)
        timer.start()
        try:
            yield has_expired
        finally:
            timer.cancel()

    def _last_error(self) -> str:
        if self._errors is None:
            return "its errors are above"
        return last_error(self._errors.read_text(encoding="utf-8", errors="replace"))


def last_error(text: str) -> str:
    """Return the last line of an error stream, at most `MAX_ERROR_CHARS` of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:MAX_ERROR_CHARS] if lines else "it printed no error"
