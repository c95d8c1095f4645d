"""A child process that answers JSON lines, held at arm's length: bounded, with deadlines, and never left behind.

The child runs other people's code in another environment. It gets no environment variables but the harmless ones;
a line that is too long, is no JSON, or answers something else is an error that shows what came; a deadline or a
cancellation kills it. It ends by itself when its standard input closes, so none outlives this process.
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
"""The longest answer read; AgentDojo's catalog has 100 kB, its largest tool results less."""
ASK_TIMEOUT_S = 120.0
"""For one answer. The first waits for AgentDojo's import: 2 s on an idle core, many times that on a busy one."""
EXIT_TIMEOUT_S = 5.0
STDERR_CHARS = 2_000
_CHUNK_BYTES = 1 << 16
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""Variables that the child sees. None that could hold a key."""


class BridgeError(AgentKitError):
    """The child died, broke the protocol, was too slow, or reports that it could not do what was asked."""


class Bridge:
    """One child. Not for several threads at once, but `kill` may come from any."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start `command`.

        Raises:
            BridgeError: it cannot be started.
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
        """Whether the child still runs."""
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def ask(self, do: str, *, timeout_s: float = ASK_TIMEOUT_S, **fields: Any) -> Any:
        """Send a request and return what is answered; after any error but a reported one the child is dead.

        Raises:
            BridgeError: see the class.
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
        """Ask from a worker thread; a cancellation kills the child, which ends the thread.

        Raises:
            BridgeError: as `ask`.
        """
        try:
            return await anyio.to_thread.run_sync(partial(self.ask, do, **fields), abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            self.kill()
            raise

    def kill(self) -> None:
        """End the child now. Harmless if it has ended, and in the middle of `ask`, which then fails."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Let the child end by itself, then release what was held."""
        # The thread of a cancelled `ask` may still be at the descriptors; the child being dead, it soon is not.
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
    """Children that wait for the next case, because starting one takes seconds."""

    def __init__(self) -> None:
        """Start none yet; all are closed at exit."""
        self._idle: dict[tuple[str, ...], list[Bridge]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    @asynccontextmanager
    async def borrow(self, command: Sequence[str]) -> AsyncIterator[Bridge]:
        """Yield a child of our own; it is kept for others unless something went wrong."""
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
        """Return a living child that nobody uses, if there is one."""
        with self._lock:
            waiting = self._idle.get(tuple(command), [])
            while waiting:
                bridge = waiting.pop()
                if bridge.is_alive:
                    return bridge
                bridge.close()
        return None

    def give_back(self, command: Sequence[str], bridge: Bridge) -> None:
        """Keep a child for the next, or bury it if it is dead."""
        if not bridge.is_alive:
            bridge.close()
            return
        with self._lock:
            self._idle.setdefault(tuple(command), []).append(bridge)

    def close(self) -> None:
        """End all children that wait."""
        with self._lock:
            bridges = [bridge for waiting in self._idle.values() for bridge in waiting]
            self._idle.clear()
        for bridge in bridges:
            bridge.close()
