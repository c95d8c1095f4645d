"""Command tools of a workspace: shell commands and Python in the sandbox, with results as a model reads them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentkit.basics.hidden import strip_data
from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.tools.tool import ToolOutput
from agentkit.workspace.sandbox import SandboxLimits, SandboxResult, run_in_sandbox

SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
"""Shells, the first that exists is used: models write for bash."""
MAX_CODE_CHARS = 100_000
"""Characters of a command: the kernel takes 128 KiB in one argument."""
PROGRESS_CHARS = 200

Seconds = Annotated[
    int, Field(ge=0, description="Seconds after which it is ended; 0 for the longest time that is allowed.")
]


class Commands:
    """Commands in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        seen_as: str,
        writable: bool,
        readable: Sequence[Path],
        environment: Mapping[str, str],
        limits: SandboxLimits,
        max_output_chars: int,
    ) -> None:
        """Set where commands run, what they see and how long."""
        self._folder, self._seen_as, self._writable, self._readable = folder, seen_as, writable, readable
        self._environment, self._limits, self._max_output_chars = environment, limits, max_output_chars
        self._shell = next((shell for shell in SHELLS if os.path.exists(shell)), SHELLS[-1])

    async def run_shell(
        self,
        context: RunContext[Any],
        command: Annotated[str, Field(description="Shell command, like 'ls -l | head'.")],
        timeout_s: Seconds = 0,
    ) -> ToolOutput:
        """Run a shell command in the folder. It has no input and no network."""
        if len(command) > MAX_CODE_CHARS or "\0" in command:
            raise ModelRetry(
                f"The command has {len(command):,} characters; at most {MAX_CODE_CHARS:,} and no NUL. "
                "Write a script to a file and run it."
            )
        return await self._run([self._shell, "-c", command], b"", timeout_s, context)

    async def run_python(
        self,
        context: RunContext[Any],
        code: Annotated[str, Field(description="The Python code. Print what you want to read.")],
        timeout_s: Seconds = 0,
    ) -> ToolOutput:
        """Run Python code in the folder, in a new process. It has no network."""
        return await self._run(["python3", "-"], code.encode("utf-8", "replace"), timeout_s, context)

    async def _run(
        self, command: Sequence[str], stdin: bytes, timeout_s: int, context: RunContext[Any]
    ) -> ToolOutput:
        longest_s = self._limits.wall_s
        limits = self._limits._replace(wall_s=min(timeout_s or longest_s, longest_s))

        def report(elapsed_s: float, line: str) -> None:
            shown = strip_data(line[:PROGRESS_CHARS])[0]
            context.report_progress(elapsed_s, limits.wall_s, shown or None)

        result = await run_in_sandbox(
            command,
            folder=self._folder,
            seen_as=self._seen_as,
            readable=self._readable,
            writable=self._writable,
            environment=self._environment,
            stdin=stdin,
            limits=limits,
            on_progress=report,
        )
        return told(result, limits, self._max_output_chars)


def told(result: SandboxResult, limits: SandboxLimits, max_chars: int) -> ToolOutput:
    """Return the result of a command: how it ended, its output, and below it what it wrote to standard error."""
    stdout = shown_output(result.stdout, result.stdout_dropped, max_chars)
    stderr = shown_output(result.stderr, result.stderr_dropped, max_chars)
    parts = [_end(result, limits)]
    if stdout:
        parts.append(stdout)
    if stderr:
        parts.append(f"[standard error]\n{stderr}")
    if not stdout and not stderr:
        parts.append("(no output)")
    data = {
        "exit_status": result.exit_status,
        "signal": result.signal,
        "stopped_by": result.stopped_by,
        "stdout": stdout,
        "stderr": stderr,
        "duration_s": round(result.duration_s, 3),
    }
    return ToolOutput("\n".join(parts), data, is_error=result.stopped_by is not None, timed_out=result.timed_out)


def shown_output(data: bytes, n_dropped: int, max_chars: int) -> str:
    """Return output as text without hidden characters; a long one is cut in the middle, with a note there.

    Args:
        data: The output, or its first and its last half.
        n_dropped: Bytes that are missing between the two halves.
        max_chars: Characters to keep.
    """
    middle = (len(data) + 1) // 2 if n_dropped else len(data)
    begin, end = (strip_data(part.decode("utf-8", "replace")) for part in (data[:middle], data[middle:]))
    text, n_hidden = begin[0] + end[0], begin[1] + end[1]
    if n_dropped or len(text) > max_chars:
        half = max_chars // 2
        head, tail = (
            (begin[0][:half], end[0][-half:] if half else "") if n_dropped else (text[:half], text[-half:])
        )
        missing = f"{n_dropped + len(text) - len(head) - len(tail):,} characters left out"
        text = f"{head}\n... ({missing}; write long output to a file and read parts of it) ...\n{tail}"
    if n_hidden:
        text += f"\n[{n_hidden:,} hidden characters removed]"
    return text.rstrip("\n")


def _end(result: SandboxResult, limits: SandboxLimits) -> str:
    """Return how a command ended, on one line."""
    if result.stopped_by is not None:
        allowed = {
            "time limit": f"{limits.wall_s:g} s",
            "CPU limit": f"{limits.cpu_s:g} s of computing",
            "memory limit": f"{limits.memory_bytes >> 20:,} MiB of memory",
            "disk limit": f"{limits.disk_bytes >> 20:,} MiB or {limits.disk_files:,} files added",
        }.get(result.stopped_by, "more output than is read")
        return f"Stopped by the {result.stopped_by}: {allowed}. What it did until then has taken effect."
    if result.signal is not None:
        return f"Ended by signal {result.signal} ({_signal_name(result.signal)})."
    return f"Exit status {result.exit_status}."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "unknown"
