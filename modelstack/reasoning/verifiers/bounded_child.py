"""A child process that evaluates untrusted text, each question in its own fork that can be killed.

Some libraries take unbounded time and memory, for example sympy with `9**9**9`. The child imports the library
once (math-verify takes seconds) and forks for each question, so that a slow question only costs its own limits.
A fork has limits on CPU, memory and files, an empty environment, and no children. This protects against
accidents, not against attacks: text that a library could *execute* must be filtered before, or run in
`modelstack.sandbox`.

Thread-safe; after a fork each process starts its own child. POSIX only.
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
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

START_S = 240.0
"""Seconds for the interpreter and its imports on a busy machine."""
GRACE_S = 30.0
"""Seconds beyond a question's own deadline, which the child enforces, before the child itself counts as hung."""
MAX_REPLY_BYTES = 1 << 16
_REPOSITORY = str(Path(__file__).resolve().parents[3])
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from modelstack.reasoning.verifiers.bounded_child import serve; serve(json.loads(sys.argv[2]))"
)


class ChildLimits(NamedTuple):
    """Limits of one question."""

    wall_s: float = 30.0
    """Seconds of wall time; more than the CPU limit, so that a correct answer does not fail on a busy machine."""
    cpu_s: int = 5
    memory_bytes: int = 2 << 30
    """Bytes of address space, libraries included."""


class TookTooLong(Exception):
    """Error for a question that was not answered within the limits."""


class BoundedChild:
    """Function of a module, called in a separate process."""

    def __init__(self, function: str, limits: ChildLimits | None = None) -> None:
        """Store the function; the process starts at the first question.

        Args:
            function: Function as `module:name`; it takes one JSON value and returns one.
            limits: Limits of one question; None: the defaults.
        """
        self._function, self._limits = function, limits or ChildLimits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._finalizer: weakref.finalize[..., BoundedChild] | None = None

    def ask(self, question: Any) -> Any:
        """Return the answer to a question.

        Raises:
            TookTooLong: The deadline passed, or the process died while answering.
            RuntimeError: The function cannot be imported, or raised an error; the message is that of the child.
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
        """End the process; a later question starts another one."""
        with self._lock:
            self._end()

    def __enter__(self) -> BoundedChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        # It holds the process, so that a collection of a cycle ends it before its pipes are reported as unclosed.
        self._finalizer = weakref.finalize(self, _end_process, process, self._owner)
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
        self._process = None
        if self._finalizer is not None:
            self._finalizer()


def _end_process(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a child and close its pipes; a copy in a forked process must not end the child of its parent."""
    if owner == os.getpid():
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def serve(job: Mapping[str, Any]) -> None:
    """Run the child's loop: import the function, then fork for each question until the input ends."""
    limits = ChildLimits(**job["limits"])
    replies = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # output printed by a library must not reach the replies
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
        )  # it may have ended already, but it is not reaped yet, so its process id is still valid
        os.waitpid(fork, 0)
        replies.write(line or b"{}\n")
        replies.flush()


def _answer(
    function: Callable[[Any], Any], question: bytes, write_end: int, null: int, limits: ChildLimits
) -> NoReturn:
    """Answer one question in the fork and exit; control must never return to the child's loop."""
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
            with suppress(OSError, ValueError):  # some systems lack some limits; the deadline always holds
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
    """Return the bytes up to the end of a line; None if it is late, incomplete or too long."""
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
