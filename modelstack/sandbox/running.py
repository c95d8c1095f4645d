"""Judgement of a program that a model wrote: two isolated processes, one verdict.

`judge_program` starts a program process and a judge process, each behind its own launcher
(`modelstack.sandbox.child`) in its own namespaces (`modelstack.sandbox.isolation`), with two pipes between them.
The verdict is that of the judge. Isolation is all or nothing: if the kernel provides no namespaces, nothing is
run, and the error states the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from modelstack.errors import UserError
from modelstack.sandbox.launching import filter_of_this_machine, launcher_command, refusal
from modelstack.sandbox.limits import Limits

PROGRAMS = "programs that a model wrote"
COMMAND = launcher_command("modelstack.sandbox.child")
GRACE_S = 20.0
"""Seconds beyond a launcher's own deadline, for starting an interpreter on a busy machine."""
DEFAULT_LIMITS = Limits()
SHOWN_OUTPUT = 500
"""Maximum characters of a program's output in the verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a program under its tests."""

    passed: bool
    reason: str
    """The failed test and its error, or how the program ended early."""
    output: str = ""
    """The beginning of its output."""
    tests_passed: tuple[bool, ...] = ()
    """Result of each test that was run, in order; empty if none was run."""


def judge_program(
    sources: Sequence[str],
    tests: Sequence[str],
    names: Sequence[str],
    *,
    helpers: str = "",
    limits: Limits = DEFAULT_LIMITS,
    every_test: bool = False,
) -> Verdict:
    """Run a program and its tests in separate processes; blocks for as long as `limits` allow.

    Args:
        sources: The program, executed in order in one module. It can read its sources, so they must contain no
            secrets.
        tests: Python code, executed in order in the judge; each test must end without an error.
        names: Globals of the program that the tests call or pass as arguments.
        helpers: Python code for the judge, executed before `names` are set.
        limits: Limits of each of the two processes.
        every_test: Whether to continue after a failed test; the reason is still that of the first failure.

    Raises:
        UserError: This machine cannot isolate processes.
    """
    system_calls = filter_of_this_machine(PROGRAMS)
    to_program, from_judge = os.pipe()
    to_judge, from_program = os.pipe()
    handles = (to_program, from_judge, to_judge, from_program)
    with tempfile.TemporaryDirectory(prefix="agentkit-sandbox-", ignore_cleanup_errors=True) as folder:
        try:
            program = _Launcher(
                {"role": "program", "sources": list(sources), "filter": system_calls},
                (to_program, from_program),
                folder,
                limits,
            )
            job = {
                "role": "judge",
                "tests": list(tests),
                "names": list(names),
                "helpers": helpers,
                "every_test": every_test,
                "filter": system_calls,
            }
            judge = _Launcher(job, (to_judge, from_judge), folder, limits)
        finally:
            for handle in handles:
                os.close(handle)
        try:
            judged = judge.report()
        finally:
            ran = program.report(stop=True)
            judge.report(stop=True)
    return _verdict(judged, ran)


@cache
def require_sandbox() -> None:
    """Raise an error if programs cannot be isolated on this machine.

    Raises:
        UserError: The sandbox does not work; the message contains the step that the kernel rejected.
    """
    verdict = judge_program(["def one():\n    return 1\n"], ["assert one() == 1"], ["one"])
    if not verdict.passed:
        raise UserError(f"the sandbox for programs does not work here: {verdict.reason}")


def _verdict(judged: Mapping[str, Any], ran: Mapping[str, Any]) -> Verdict:
    for report in (judged, ran):
        if report["ended"] == "not isolated":
            raise refusal(PROGRAMS, report["reason"])
    output = str(ran.get("output", ""))[:SHOWN_OUTPUT]
    try:
        verdict = json.loads(judged.get("output", ""))
    except ValueError:
        return Verdict(False, f"no verdict: the tests ended by {judged['ended']}", output)
    reason = str(verdict["reason"])
    # "stopped": a program that was waiting for more calls; "exited": a program whose pipe was closed.
    if not verdict["passed"] and ran["ended"] not in ("stopped", "exited"):
        reason = f"{ran['ended']}; {reason}"
    return Verdict(bool(verdict["passed"]), reason, output, tuple(verdict["tests_passed"]))


class _Launcher:
    """A started launcher; it ends by itself when its standard input is closed or its time is over."""

    def __init__(self, job: Mapping[str, Any], pipes: tuple[int, int], folder: str, limits: Limits) -> None:
        root = Path(folder) / str(job["role"])
        root.mkdir()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pipes,
            start_new_session=True,
            env={},
        )
        self._timer = threading.Timer(limits.wall_s + GRACE_S, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        self._report: dict[str, Any] | None = None
        line = json.dumps({**job, "pipes": pipes, "root": str(root), "limits": limits._asdict()}) + "\n"
        with suppress(BrokenPipeError):  # the launcher ended at once; `report` handles this
            self._stdin.write(line.encode())
            self._stdin.flush()

    def report(self, *, stop: bool = False) -> Mapping[str, Any]:
        """Wait for the report and cache it; with `stop`, end the child first if it is still running."""
        if self._report is not None:
            return self._report
        if stop:
            self._close_stdin()
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        words = self._process.stderr.read().decode("utf-8", "replace").strip()
        self._timer.cancel()
        self._process.wait()
        self._close_stdin()
        self._process.stdout.close()
        self._process.stderr.close()
        failure = {"ended": "not isolated", "reason": words[-SHOWN_OUTPUT:] or "the launcher ended"}
        found: dict[str, Any] = json.loads(line) if line else failure
        self._report = found
        return found

    def _close_stdin(self) -> None:
        with suppress(BrokenPipeError):  # unsent data are still in the buffer
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin
