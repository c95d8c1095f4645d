"""Child process that answers JSON lines, with bounded answers, deadlines, and guaranteed termination.

The child runs third-party code in another environment. It gets only harmless environment variables. A line that is
too long, is not JSON, or answers another request raises an error that shows it. A deadline or a cancellation kills
the child. The child ends when its standard input closes, so it cannot outlive this process.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from agentkit.errors import AgentKitError

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Maximum length of an answer; AgentDojo's catalog has 100 kB, its largest tool results have less."""
ASK_TIMEOUT_S = 120.0
"""Seconds for one answer. The first includes AgentDojo's import: 2 s on an idle core, many times that on a busy
one."""
EXIT_TIMEOUT_S = 5.0
STDERR_CHARS = 2_000
_CHUNK_BYTES = 1 << 16
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""Environment variables that the child gets; none of them can hold a key."""


class BridgeError(AgentKitError):
    """Raised if the child died, violated the protocol, missed a deadline, or reports a failed request."""


class Bridge:
    """A child process. Not thread-safe, except that `kill` may be called from any thread."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start `command`.

        Raises:
            BridgeError: the command cannot be started.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=variables,
                bufsize=0,
            )
        except OSError as error:
            self._stderr.close()
            raise BridgeError(f"{command[0]!r} cannot be started: {error}.") from error
        assert self._child.stdin is not None and self._child.stdout is not None
        self._in, self._out = self._child.stdin, self._child.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._received = bytearray()
        self._n_asked = 0
        self._asking = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Whether the child is running."""
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def ask(self, do: str, *, timeout_s: float = ASK_TIMEOUT_S, **fields: Any) -> Any:
        """Send a request and return its answer; any error except a reported one kills the child.

        Raises:
            BridgeError: the request failed, as described in the class.
        """
        with self._asking:
            self._n_asked += 1
            deadline = time.monotonic() + timeout_s
            line = json.dumps({"id": self._n_asked, "do": do, **fields}).encode() + b"\n"
            try:
                self._write(line, deadline)
                answer = self._answer(self._read(deadline))
            except (BridgeError, OSError) as error:
                self.kill()
                raise BridgeError(f"the bridge failed at {do!r}: {error}{self._last_words()}") from error
        if "error" in answer:
            raise BridgeError(f"{do!r} failed in the bridge: {answer['error']}")
        return answer["ok"]

    async def ask_async(self, do: str, **fields: Any) -> Any:
        """Send a request from a worker thread; a cancellation kills the child, which ends the thread.

        Raises:
            BridgeError: the request failed, as in `ask`.
        """
        try:
            return await anyio.to_thread.run_sync(partial(self.ask, do, **fields), abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the child. Does nothing if it has ended; a running `ask` fails."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Wait for the child to end, then release its resources."""
        # The thread of a cancelled `ask` may still use the descriptors; it stops soon, because the child is dead.
        with self._asking:
            self._in.close()
            try:
                self._child.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._out.close()
            self._stderr.close()

    def _write(self, line: bytes, deadline: float) -> None:
        left = memoryview(line)
        while left:
            self._wait(self._in, selectors.EVENT_WRITE, deadline)
            try:
                left = left[os.write(self._in.fileno(), left[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue

    def _read(self, deadline: float) -> bytes:
        start = 0
        while (end := self._received.find(b"\n", start)) < 0:
            if len(self._received) > MAX_LINE_BYTES:
                raise BridgeError(f"an answer is longer than {MAX_LINE_BYTES:,} bytes")
            start = len(self._received)
            self._wait(self._out, selectors.EVENT_READ, deadline)
            try:
                chunk = os.read(self._out.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not chunk:
                raise BridgeError(self._how_it_ended())
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise BridgeError(f"an answer is not JSON: {line[:200]!r}") from None
        if not isinstance(answer, dict) or answer.get("id") != self._n_asked or not {"ok", "error"} & set(answer):
            raise BridgeError(f"an answer is not to request {self._n_asked}: {line[:200]!r}")
        return answer

    def _wait(self, stream: Any, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stream, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise BridgeError("no answer in time")

    def _how_it_ended(self) -> str:
        try:
            return f"the child has ended with code {self._child.wait(EXIT_TIMEOUT_S)}"
        except subprocess.TimeoutExpired:
            return "the child has closed its output"

    def _last_words(self) -> str:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - STDERR_CHARS))
        text = self._stderr.read().decode("utf-8", "replace").strip()
        return f"\nIts last words:\n{text}" if text else ""


class BridgePool:
    """Pool of idle children for later cases, because starting one takes seconds."""

    def __init__(self) -> None:
        """Create an empty pool; all its children are closed at exit."""
        self._idle: dict[tuple[str, ...], list[Bridge]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    @asynccontextmanager
    async def borrow(self, command: Sequence[str]) -> AsyncIterator[Bridge]:
        """Yield an exclusive child; it returns to the pool unless an exception occurred."""
        bridge = self.take(command)
        if bridge is None:
            bridge = await anyio.to_thread.run_sync(Bridge, command)
        try:
            yield bridge
        except BaseException:
            bridge.kill()
            raise
        finally:
            self.give_back(command, bridge)

    def take(self, command: Sequence[str]) -> Bridge | None:
        """Return an idle living child, or None."""
        with self._lock:
            waiting = self._idle.get(tuple(command), [])
            while waiting:
                bridge = waiting.pop()
                if bridge.is_alive:
                    return bridge
                bridge.close()
        return None

    def give_back(self, command: Sequence[str], bridge: Bridge) -> None:
        """Return a child to the pool, or close it if it is dead."""
        if not bridge.is_alive:
            bridge.close()
            return
        with self._lock:
            self._idle.setdefault(tuple(command), []).append(bridge)

    def close(self) -> None:
        """End all idle children."""
        with self._lock:
            bridges = [bridge for waiting in self._idle.values() for bridge in waiting]
            self._idle.clear()
        for bridge in bridges:
            bridge.close()
