"""A child process that answers questions about hostile text, each in a fork of its own that can be killed.

For libraries that cannot be trusted with time and memory, as sympy with `9**9**9`: the child imports once
(math-verify takes seconds) and forks for each question, so that one which takes too long costs its own limits and
nothing else. A fork has limits on CPU, memory and files, an empty environment, and no children. This keeps off
harm by accident, not by
intent: what a text could make a library *execute* must be kept from it before, or run in `modelstack.sandbox`.

Safe to use from several threads; after a fork each process starts a child of its own. POSIX only.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

START_S = 240.0
"""For an interpreter and its imports on a busy machine."""
GRACE_S = 30.0
"""Beyond a question's own deadline, which the child keeps, until the child itself is taken for lost."""
MAX_REPLY_BYTES = 1 << 16
_REPOSITORY = str(Path(__file__).resolve().parents[3])
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from modelstack.reasoning.verifiers.bounded_child import serve; serve(json.loads(sys.argv[2]))"
)


class ChildLimits(NamedTuple):
    """What one question may take."""

    wall_s: float = 30.0
    """Longer than the CPU limit, since a right answer must not fail where the machine is busy."""
    cpu_s: int = 5
    memory_bytes: int = 2 << 30
    """Address space of the process, libraries included."""


class TookTooLong(Exception):
    """The question was not answered within the limits."""


class BoundedChild:
    """A function of a module, called in a process of its own."""

    def __init__(self, function: str, limits: ChildLimits | None = None) -> None:
        """Take what is to be called; the process starts with the first question.

        Args:
            function: `module:name`; takes one JSON value and returns one.
            limits: Of one question.
        """
        self._function, self._limits = function, limits or ChildLimits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, question: Any) -> Any:
        """Return the answer to a question.

        Raises:
            TookTooLong: The deadline passed, or the process died of the question.
            RuntimeError: The function cannot be imported, or raised; the message is the child's.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                reply = self._line(process, self._limits.wall_s + GRACE_S)
            except (BrokenPipeError, TookTooLong) as error:
                self._end()
                raise TookTooLong(f"no answer within {self._limits}") from error
        if "error" in reply:
            raise RuntimeError(reply["error"])
        if "answer" not in reply:
            raise TookTooLong(f"no answer within {self._limits}")
        return reply["answer"]

    def close(self) -> None:
        """End the process; a later question starts another."""
        with self._lock:
            self._end()

    def __enter__(self) -> BoundedChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._end()
        paths = [_REPOSITORY, *(path for path in sys.path if path)]
        job = {"function": self._function, "limits": self._limits._asdict()}
        self._owner = os.getpid()
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", "-c", _COMMAND, json.dumps(paths), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd="/",
        )
        try:
            ready = self._line(process, START_S)
        except TookTooLong as error:
            self._end()
            raise RuntimeError(f"the child for {self._function} did not start") from error
        if "error" in ready:
            self._end()
            raise RuntimeError(ready["error"])
        return process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> Mapping[str, Any]:
        """Return the next message of the child."""
        assert process.stdout is not None
        line = _read_line(process.stdout.fileno(), seconds)
        if line is None:
            raise TookTooLong
        return json.loads(line)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner == os.getpid():  # a fork's copy is not its to end
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def serve(job: Mapping[str, Any]) -> None:
    """Be the child: import, then fork for each question until there are no more."""
    limits = ChildLimits(**job["limits"])
    replies = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # what a library prints is no reply
    try:
        module, _, name = job["function"].partition(":")
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    except Exception as error:
        _send(replies, _told(error))
        return
    _send(replies, {"answer": None})
    for question in sys.stdin.buffer:
        read_end, write_end = os.pipe()
        fork = os.fork()
        if fork == 0:
            _answer(function, question, write_end, null, limits)
        os.close(write_end)
        line = _read_line(read_end, limits.wall_s)
        os.close(read_end)
        os.kill(
            fork, signal.SIGKILL
        )  # it may have ended by itself; it is not reaped yet, so the number is its own
        os.waitpid(fork, 0)
        replies.write(line or b"{}\n")
        replies.flush()


def _answer(
    function: Callable[[Any], Any], question: bytes, write_end: int, null: int, limits: ChildLimits
) -> NoReturn:
    """Be the fork: what happens here must never reach the child's loop."""
    try:
        os.dup2(null, 0)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = int(used.ru_utime + used.ru_stime) + limits.cpu_s + 1
        for name, value in (
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_AS, limits.memory_bytes),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),
        ):
            with suppress(OSError, ValueError):  # not every system has every limit; the deadline holds in any case
                resource.setrlimit(name, (value, value))
        try:
            message = {"answer": function(json.loads(question))}
        except Exception as error:
            message = _told(error)
        with os.fdopen(write_end, "wb") as replies:
            _send(replies, message)
    finally:
        os._exit(0)


def _read_line(handle: int, seconds: float) -> bytes | None:
    """Return what is written up to a line's end, None where it does not come in time or is too long."""
    deadline, text = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while not text.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = os.read(handle, MAX_REPLY_BYTES)
            text += chunk
            if not chunk or len(text) > MAX_REPLY_BYTES:
                return None
    return text


def _told(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"[:500]}


def _send(replies: BinaryIO, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()
