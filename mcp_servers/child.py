"""Runs work that must be stoppable in a child process, because a thread cannot be killed.

CPython's `re` holds the interpreter lock through a whole match, so `(a+)+$` would freeze the server, not only its
thread. One SQLite opcode (`instr` of two long strings) does not check the interrupt flag. The child answers one
JSON line per request; past the deadline it is killed and the next call starts another. A child process also allows
memory limits for this work alone (`RLIMIT_AS`, and SQLite's process-wide heap limit).

A child outlives its parent by at most one request: end of input stops it, and a CPU limit set per request stops it
inside a match.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_servers.failures import ToolFailure

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no rlimits; the deadline still holds
    resource = None

PACKAGE = Path(__file__).resolve().parent
# The child imports this package from its folder without putting the parent folder on sys.path. The parent may be
# any folder: it must not be searched before the standard library, and a confined process cannot list it.
_BOOTSTRAP = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location({name!r}, {file!r}, submodule_search_locations=[{folder!r}])
sys.modules[{name!r}] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from {module} import main
main()
"""
MEMORY_BYTES = 512 * 1024 * 1024
"""Address space of a child process; several times the 30 MB of the interpreter and every limit of the policies."""
# Seconds of CPU beyond a request's deadline before the kernel ends a child whose parent is gone.
CPU_GRACE_S = 2


class ChildTimeout(Exception):
    """The child did not answer in time and was killed."""


class ChildCrash(Exception):
    """The child ended without an answer."""


class KillableChild:
    """A lazily started child that runs `module.main()`; one request at a time, safe to call from threads."""

    def __init__(self, module: str, *, packages: bool = False) -> None:
        """Set the module; the child starts at the first call.

        Args:
            module: Module with `main()`, which calls `answer_requests`.
            packages: Whether the child may import installed packages, which lengthens its start by some ms.
        """
        code = _BOOTSTRAP.format(
            name=PACKAGE.name, file=str(PACKAGE / "__init__.py"), folder=str(PACKAGE), module=module
        )
        # -I: no environment, no working directory on the path; -S: no search for installed packages.
        self._command = [sys.executable, "-I", *(() if packages else ("-S",)), "-c", code]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, request: dict[str, Any], timeout_s: float) -> Any:
        """Return the child's answer to `request`.

        Raises:
            ToolFailure: The child reported a failure that the model can act on.
            ChildTimeout: No answer within `timeout_s` seconds; the child was killed.
            ChildCrash: The child ended without an answer.
        """
        line = json.dumps({"timeout_s": timeout_s, "request": request}).encode() + b"\n"
        with self._lock:
            answer = self._exchange(line, timeout_s)
        reply = json.loads(answer)
        if "failure" in reply:
            raise ToolFailure(reply["failure"])
        return reply["answer"]

    def close(self) -> None:
        """Stop the child and its current request; a later call starts a new one."""
        running = self._process
        if running is not None:
            running.kill()  # without the lock, which the running call holds
        with self._lock:
            self._stop()

    def _exchange(self, line: bytes, timeout_s: float) -> bytes:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            timer.cancel()
            timer.join()
        if expired.is_set() or not answer.endswith(b"\n"):
            self._stop()
        if expired.is_set():
            raise ChildTimeout
        if not answer.endswith(b"\n"):
            raise ChildCrash
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            # Its own session: Ctrl-C in the terminal ends the server, and the server ends the child.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def answer_requests(handle: Callable[[dict[str, Any]], Any]) -> None:
    """Run the child's side: answer each line of standard input until it ends."""
    _limit_memory()
    for line in sys.stdin.buffer:
        message = json.loads(line)
        _limit_cpu(message["timeout_s"])
        try:
            reply = {"answer": handle(message["request"])}
        except ToolFailure as failure:
            reply = {"failure": str(failure)}
        except MemoryError:
            reply = {"failure": "This needed too much memory and was stopped. Ask for less at a time."}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(timeout_s: float) -> None:
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit_s = math.ceil(usage.ru_utime + usage.ru_stime + timeout_s) + CPU_GRACE_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
