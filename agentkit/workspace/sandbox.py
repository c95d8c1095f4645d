"""Commands that an agent runs: one program of the machine, isolated by the kernel, in one folder.

The sandbox itself is `modelstack.sandbox`, which also judges the programs of HumanEval. This module runs it
without blocking the event loop and ends the command if the caller is cancelled. There is no weaker mode: where the
kernel does not isolate processes, nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentkit.errors import ToolFailed, UserError
from modelstack.errors import UserError as StackError
from modelstack.sandbox.commands import CommandResult as SandboxResult
from modelstack.sandbox.commands import LauncherEnded, RunningCommand, start_command
from modelstack.sandbox.limits import CommandLimits as SandboxLimits

if TYPE_CHECKING:
    from anyio import CapacityLimiter

__all__ = ["SandboxError", "SandboxLimits", "SandboxResult", "run_in_sandbox"]

PROGRESS_S = 1.0
"""Seconds between two reports of a running command."""
_DEFAULT_LIMITS = SandboxLimits()
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class SandboxError(UserError):
    """A command cannot be isolated on this machine, or an argument of the sandbox is invalid; nothing was run."""


async def run_in_sandbox(
    command: Sequence[str],
    *,
    folder: Path,
    readable: Sequence[Path] = (),
    writable: bool = True,
    seen_as: str | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] = _NO_VARIABLES,
    limits: SandboxLimits = _DEFAULT_LIMITS,
    on_progress: Callable[[float, str], None] | None = None,
) -> SandboxResult:
    """Run a command that reaches the folder, the machine's programs and libraries, and nothing else.

    A cancellation ends the command and everything that it started before it is raised again.

    Args:
        command: Program and arguments; a name without a slash is searched in PATH.
        folder: Working directory; it must exist. Git's own folder in it and this process's Python stay read-only.
        readable: Further files and folders that the command may read, at their own paths.
        writable: Whether the command may change the folder.
        seen_as: Absolute path under which the command sees the folder; None for its own.
        stdin: Standard input.
        environment: Variables in addition to PATH, HOME, TMPDIR and LANG; none of this process's are passed.
        limits: Limits of the command with everything that it starts.
        on_progress: Called once a second with the seconds so far and the last line of output.

    Raises:
        SandboxError: The machine cannot isolate processes, or an argument is invalid; nothing was run.
        ToolFailed: The sandbox was ended from outside, so the outcome of the command is unknown.
    """
    import anyio
    import anyio.to_thread

    def start() -> RunningCommand:
        return start_command(
            command,
            folder=folder,
            readable=readable,
            writable=writable,
            seen_as=seen_as,
            stdin=stdin,
            environment=environment,
            limits=limits,
        )

    # A limiter of its own: a command may wait for minutes, and the shared threads serve other calls.
    limiter = anyio.CapacityLimiter(1)
    try:
        # Some milliseconds, which no cancellation interrupts: a command that has started must be ended.
        running = await anyio.to_thread.run_sync(start, limiter=limiter)
        return await _ended(running, limiter, on_progress)
    except StackError as error:
        raise SandboxError(str(error)) from error
    except LauncherEnded as error:
        raise ToolFailed(f"{error}; what the command has changed is unknown.") from error


async def _ended(
    running: RunningCommand, limiter: CapacityLimiter, on_progress: Callable[[float, str], None] | None
) -> SandboxResult:
    """Wait for a command; a cancellation ends it first."""
    import anyio
    import anyio.to_thread

    found: list[SandboxResult | Exception] = []  # a task group would wrap an error in an ExceptionGroup

    async def wait() -> None:
        with anyio.CancelScope(shield=True):
            try:
                found.append(await anyio.to_thread.run_sync(running.wait, limiter=limiter))
            except Exception as error:
                found.append(error)
        tasks.cancel_scope.cancel()

    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        try:
            while True:
                await anyio.sleep(PROGRESS_S)
                if on_progress is not None:
                    on_progress(anyio.current_time() - started, running.stdout.last_line())
        except Exception as error:
            found.append(error)
        finally:
            running.stop()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
