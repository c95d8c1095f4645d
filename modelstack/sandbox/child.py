"""The processes inside the sandbox: a launcher for each role, and its child, which runs code.

The *program* child runs the model's program and then answers calls. The *judge* child runs the benchmark's tests,
in which the tested functions are stand-ins that call the program over a pipe. Only the judge knows the expected
values and writes the verdict. A program that exits, prints, patches or overrides `==` therefore affects only its
own answers. A launcher ends its child at the deadline, on too much output, and when the process that started it is
gone.

Standard library only: `python -I -S -c "... main()"`, one JSON job on standard input, one JSON report on standard
output.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import select
import sys
import time
from collections.abc import Sequence
from io import TextIOWrapper
from types import ModuleType
from typing import Any, BinaryIO, NoReturn, cast

from modelstack.sandbox.isolation import NOBODY, become_ordinary, is_machine_root, leave_the_host
from modelstack.sandbox.kernel_calls import SIGKILL, IsolationError
from modelstack.sandbox.limits import Limits
from modelstack.sandbox.mounts import View, build_view, enter_view, library_folders
from modelstack.sandbox.values import Name, decode, encode

MAX_MESSAGE_BYTES = 16 << 20
"""Maximum bytes of one call or answer; a longer one ends the exchange."""
MAX_HANDLES = 1 << 20
"""Exceeds the number of open files of any process."""
MAX_WORDS = 500
"""Maximum characters of an explanation."""
READY = b"ready"
NOT_ISOLATED, EXITED = "not isolated", "exited"
PROGRAM_NAME, TESTS_NAME = "<program>", "<tests>"
HELPERS_FAILED = "the tests' helper code does not load"
"""Beginning of the verdict's reason if the error is in the tests, not in the program."""


def main() -> None:
    """Run one job: isolate, fork, watch, report."""
    job = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**job["limits"])
    null = os.open(os.devnull, os.O_RDWR)
    is_root = is_machine_root()
    try:
        process_files = leave_the_host()
        build_view(job["root"], View(library_folders(), scratch_bytes=2 * limits.file_bytes))
    except IsolationError as error:
        _report(NOT_ISOLATED, reason=str(error))
        return
    state_end, state = os.pipe()
    output_end, output = os.pipe()
    deadline = time.monotonic() + limits.wall_s
    child = os.fork()
    if child == 0:
        user = (NOBODY, NOBODY) if is_root else None
        _run_child(job, limits, user, (process_files, null, state, output))
    for handle in (process_files, null, state, output, *job["pipes"]):
        os.close(handle)
    with os.fdopen(state_end, "rb") as file:
        found = file.read()
    if found != READY:
        _, status = os.waitpid(child, 0)
        _report(NOT_ISOLATED, reason=found.decode("utf-8", "replace") or f"the child ended early, status {status}")
        return
    ended, text = _watch(child, output_end, limits, deadline)
    _, status, usage = os.wait4(child, 0)
    if ended == EXITED and os.WIFSIGNALED(status):
        # The kernel ends a child at its CPU limit by a signal that others also use.
        over = usage.ru_utime + usage.ru_stime >= limits.cpu_s - 0.5
        ended = "CPU limit" if over else f"signal {os.WTERMSIG(status)}"
    _report(ended, output=text.decode("utf-8", "replace"))


def _report(ended: str, **more: str) -> None:
    sys.stdout.write(json.dumps({"ended": ended, **more}) + "\n")
    sys.stdout.flush()


def _watch(child: int, output: int, limits: Limits, deadline: float) -> tuple[str, bytes]:
    """Collect the child's output until it ends or must be killed; return how it ended. The child is not reaped."""
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(output, select.POLLIN)
    poll.register(0, 0)  # reports only a hang-up: the starting process is gone or needs no more
    collected = bytearray()
    while True:
        events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if output in events:
            chunk = os.read(output, 1 << 16)
            collected += chunk
            if not chunk:
                poll.unregister(output)
        elif handle in events:
            return EXITED, bytes(collected)
        if len(collected) > limits.output_bytes:
            ended = "output limit"
        elif 0 in events:
            ended = "stopped"
        elif time.monotonic() >= deadline:
            ended = "time limit"
        else:
            continue
        os.kill(child, SIGKILL)  # the child is the first process of its namespace, so all others in it die too
        return ended, bytes(collected[: limits.output_bytes])


def _run_child(
    job: dict[str, Any], limits: Limits, user: tuple[int, int] | None, handles: tuple[int, int, int, int]
) -> NoReturn:
    """Run as the child: isolate, execute the role, exit. Exceptions must never reach the launcher's code."""
    process_files, null, state, output = handles
    read_end, write_end = job["pipes"]
    try:
        enter_view(job["root"])
        become_ordinary(process_files, _kernel_limits(limits), bytes.fromhex(job["filter"]), user=user)
        os.umask(0o077)
        is_program = job["role"] == "program"
        for number, source in (
            (0, null),
            (1, output if is_program else null),
            (2, output if is_program else null),
        ):
            os.dup2(source, number)
        _close_all_but({0, 1, 2, read_end, write_end, state, *(() if is_program else (output,))})
        os.write(state, READY)
    except BaseException as error:  # the launcher must be informed of any error
        os.write(state, f"{type(error).__name__}: {error}".encode()[:MAX_WORDS])
        os._exit(1)
    os.close(state)
    try:
        with os.fdopen(read_end, "rb") as incoming, os.fdopen(write_end, "wb") as outgoing:
            if is_program:
                # The process is killed, so buffers are not flushed at exit.
                cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
                be_program(job["sources"], incoming, outgoing)
            else:
                os.write(output, json.dumps(be_judge(job, incoming, outgoing)).encode())
    finally:
        os._exit(0)


def _kernel_limits(limits: Limits) -> dict[int, int]:
    """Return the limits as the kernel names them; with one process it cannot fork or start a thread."""
    return {
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
    }


def _close_all_but(kept: set[int]) -> None:
    highest = max(kept)
    for number in set(range(highest)) - kept:
        try:
            os.close(number)
        except OSError:
            continue  # it was not open
    os.closerange(highest + 1, MAX_HANDLES)


# -- the program ------------------------------------------------------------------------------------------


def be_program(sources: Sequence[str], incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Run the model's program, report whether it loads, then answer calls until there are no more."""
    module = ModuleType(PROGRAM_NAME)
    sys.modules[PROGRAM_NAME] = module  # data classes look up their module
    try:
        for source in sources:
            exec(compile(source, PROGRAM_NAME, "exec"), module.__dict__)
    except BaseException as error:  # includes SystemExit: an exit counts as an answer
        _send(outgoing, {"error": _words(error)})
        return
    _send(outgoing, {"value": None})
    while message := _receive(incoming):
        try:
            arguments = decode(message["arguments"], module.__dict__.__getitem__)
            named = decode(message["named"], module.__dict__.__getitem__)
            reply = {"value": encode(module.__dict__[message["call"]](*arguments, **named))}
        except BaseException as error:
            reply = {"error": _words(error)}
        _send(outgoing, reply)


# -- the judge --------------------------------------------------------------------------------------------


class ProgramGone(Exception):
    """Raised if the program no longer answers."""


class ProgramError(Exception):
    """Raised if the program's error is not one of Python's ordinary exceptions."""


class StandIn(Name):
    """Stand-in for a function of the program, or for another of its globals when passed as an argument."""

    def __init__(self, name: str, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        """Store the name and the pipes."""
        super().__init__(name)
        self._incoming, self._outgoing = incoming, outgoing

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the program's function; return its value or raise the same kind of error.

        Raises:
            ProgramGone: There was no answer, or an invalid one.
        """
        message = {"call": self.name, "arguments": encode(list(arguments)), "named": encode(named)}
        try:
            _send(self._outgoing, message)
        except OSError as error:
            raise ProgramGone("it accepts no more calls") from error
        return _answer(self._incoming)


def be_judge(job: dict[str, Any], incoming: BinaryIO, outgoing: BinaryIO) -> dict[str, Any]:
    """Run the tests in order, up to the first failure or all of them, and return the verdict."""
    namespace: dict[str, Any] = {"__name__": TESTS_NAME}
    try:
        _answer(incoming)
    except Exception as error:
        return _failed(f"the program does not load: {_say(error)}")
    try:
        exec(compile(job["helpers"], "<helpers>", "exec"), namespace)
    except Exception as error:
        return _failed(f"{HELPERS_FAILED}: {_say(error)}")
    stand_ins = {name: StandIn(name, incoming, outgoing) for name in job["names"]}
    namespace.update(stand_ins)
    passed: list[bool] = []
    reason = ""
    for number, test in enumerate(job["tests"], start=1):
        try:
            exec(compile(test, TESTS_NAME, "exec"), namespace)
            passed.append(True)
        except Exception as error:
            passed.append(False)
            reason = reason or f"test {number}: {_say(error)}: {_line(test, error)}"[:MAX_WORDS]
            if not job["every_test"]:
                break
    if reason:
        return _failed(reason, passed)
    return {
        "passed": True,
        "reason": f"{len(passed)} of {len(passed)} tests passed",
        "tests_passed": passed,
    }


def _failed(reason: str, passed: Sequence[bool] = ()) -> dict[str, Any]:
    return {"passed": False, "reason": reason, "tests_passed": list(passed)}


def _line(test: str, error: Exception) -> str:
    """Return the line of a test that raised an error."""
    numbers: list[int] = []
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == TESTS_NAME:
            numbers.append(step.tb_lineno)
        step = step.tb_next
    lines = test.splitlines()
    return lines[numbers[-1] - 1].strip() if numbers and numbers[-1] <= len(lines) else ""


def _answer(incoming: BinaryIO) -> Any:
    """Return the program's value, or raise an error of its kind.

    Raises:
        ProgramGone: There was no answer, or an invalid one.
    """
    try:
        message = _receive(incoming)
    except (ValueError, RecursionError) as error:
        raise ProgramGone(f"its answer cannot be read ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise ProgramGone("it ended without an answer")
    if "error" in message:
        kind, _, words = str(message["error"]).partition(": ")
        known = getattr(builtins, kind, None)
        if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, UnicodeError):
            raise known(words)
        raise ProgramError(str(message["error"]))
    try:
        return decode(message.get("value"), _no_names)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProgramGone(f"its answer is not a valid value: {error}") from error


def _no_names(name: str) -> Any:
    raise ValueError(f"the program may not name {name!r:.40}")


def _say(error: BaseException) -> str:
    return str(error) if isinstance(error, ProgramGone | ProgramError) else _words(error)


# -- messages ---------------------------------------------------------------------------------------------


def _send(outgoing: BinaryIO, message: dict[str, Any]) -> None:
    outgoing.write(json.dumps(message).encode() + b"\n")
    outgoing.flush()


def _receive(incoming: BinaryIO) -> Any:
    """Return the next message, None at the end.

    Raises:
        ValueError: The message is invalid or too long.
        RecursionError: The message is nested too deeply.
    """
    line = incoming.readline(MAX_MESSAGE_BYTES)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise ValueError("a message is too long or truncated")
    return json.loads(line)


def _words(error: BaseException) -> str:
    kind, words = type(error).__name__, str(error)
    return f"{kind}: {words}"[:MAX_WORDS] if words else kind
