"""Running one git process: its fixed command line, minimal environment, and limits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import anyio
from anyio.abc import ByteReceiveStream, Process

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.filesystem.policy import GIT_FOLDER
from mcp_servers.git.policy import (
    ENVIRONMENT,
    FIXED_CONFIG,
    Limits,
    check_arguments,
    named_overrides,
    numbered_config,
)
from mcp_servers.hidden import decoded

try:
    import resource
except ImportError:  # Windows has no rlimits; time and output are bounded there too
    resource = None

_ERROR_BYTES = 8 * 1024
_CHUNK_BYTES = 64 * 1024
# Parts of git's messages, in lower case, for an object that it needs and does not have. The origin of a partial
# clone is a promisor.
_WITHOUT_OBJECT = (
    "unable to read", "could not read", "cannot read", "could not fetch", "could not parse object", "promisor",
    "bad object", "bad tree object", "missing object", "invalid object", "not a tree object",
)  # fmt: skip
MISSING_OBJECT = (
    "An object is missing: the repository is a partial clone, for which nothing is fetched here, or it is "
    "damaged. `git fsck` in a terminal tells which."
)
OLDEST_GIT = (2, 31)
"""Oldest accepted version, for `--end-of-options` and configuration by numbered variables."""


@dataclass(frozen=True)
class Output:
    """Exit code and output of a git process."""

    code: int
    out: bytes
    is_cut: bool
    """True if there was more output and git was stopped."""
    error: str

    def checked(self) -> bytes:
        """Return the output of a process that succeeded.

        Raises:
            ToolFailure: The process failed.
        """
        if self.code and not self.is_cut:
            raise ToolFailure(explained(self.error))
        return self.out


class Git:
    """Runs git on one given repository; git does not search parent folders for one."""

    def __init__(self, root: Path, limits: Limits) -> None:
        """Prepare the fixed command line for the folder that holds `.git`.

        Raises:
            StartError: Git is not installed, or is too old.
        """
        program, *_ = git_programs()
        self._environment = _environment()
        _check_version(program, self._environment)
        self._limits = limits
        settings = [word for key, value in FIXED_CONFIG for word in ("-c", f"{key}={value}")]
        self._command = (
            program,
            "--no-pager",
            "--literal-pathspecs",
            f"--git-dir={root / GIT_FOLDER}",
            f"--work-tree={root}",
            *settings,
        )
        self._root = root
        self._programs_off: dict[str, str] = {}
        self._known_configuration: tuple[object, ...] | None = None

    async def run(self, *arguments: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> Output:
        """Run one command, with every program disabled that the configuration names.

        This includes commands that compare commits: git reads a file of the working tree, through its filter, if
        the index says that the file equals an object.

        Args:
            arguments: The command and its arguments.
            given: Standard input of the process.
            more: Additional environment variables.

        Raises:
            ToolFailure: An argument cannot be passed to a program, or the configuration is too large.
        """
        configuration = _signature(self._root)
        if configuration is None or configuration != self._known_configuration:
            keys = await self._configured_keys()
            self._programs_off = numbered_config(named_overrides(keys))
            has_more_files = any(key.startswith(("include.", "includeif.")) for key in keys)
            self._known_configuration = None if has_more_files else configuration
        return await self._run(arguments, given, {**self._programs_off, **(more or {})})

    async def _configured_keys(self) -> list[str]:
        """Return the names of all keys that the repository's configuration sets.

        Raises:
            ToolFailure: The list cannot be read completely: an unread part could name programs.
        """
        listed = await self._run(("config", "--list", "--name-only", "-z"), b"", {})
        names = listed.checked()
        if listed.is_cut:
            raise ToolFailure(
                f"The names in the repository's configuration take more than {self._limits.max_read_bytes} bytes, "
                "so they cannot all be read and the repository is not used. Remove what is not needed from "
                f"{GIT_FOLDER}/config."
            )
        return [name.decode("utf-8", "surrogateescape") for name in names.split(b"\0") if name]

    async def _run(self, arguments: Sequence[str], given: bytes, more: Mapping[str, str]) -> Output:
        check_arguments((*arguments, *more.values()))
        try:
            process = await anyio.open_process(
                [*self._command, *arguments],
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                cwd=self._root,
                env={**self._environment, **more},
                start_new_session=True,
            )
        except OSError as error:  # command line too long, out of memory, or git was removed
            raise ToolFailure(f"git could not be started: {error.strerror}. Ask for less at once.") from error
        async with process:
            try:
                _limit_memory(process, self._limits.heap_bytes)
                return await self._exchange(process, given)
            finally:
                _kill(process)

    async def _exchange(self, process: Process, given: bytes) -> Output:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None and stdout is not None and stderr is not None  # each was requested as a pipe
        errors = bytearray()

        async def give() -> None:
            async with stdin:
                with suppress(anyio.BrokenResourceError, ConnectionError):
                    await stdin.send(given)

        async def collect_errors() -> None:
            async for chunk in stderr:
                errors.extend(chunk[: _ERROR_BYTES - len(errors)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give)
            tasks.start_soon(collect_errors)
            out, is_cut = await _read(stdout, self._limits.max_read_bytes)
            if is_cut:
                _kill(process)
        code = await process.wait()
        said = decoded(bytes(errors)).replace(str(self._root), ".")  # hides paths of the machine from the model
        return Output(code, out, is_cut, said)


def _signature(root: Path) -> tuple[object, ...] | None:
    """Return a value that changes with the repository's own configuration; None if it cannot be read."""
    facts: list[object] = []
    for name in ("config", "config.worktree"):
        try:
            status = (root / GIT_FOLDER / name).lstat()
        except FileNotFoundError:
            facts.append(None)
        except OSError:
            return None
        else:
            facts.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(facts)


async def _read(stream: ByteReceiveStream, max_bytes: int) -> tuple[bytes, bool]:
    read = bytearray()
    with suppress(anyio.EndOfStream):
        while len(read) <= max_bytes:
            read += await stream.receive(_CHUNK_BYTES)
    return bytes(read[:max_bytes]), len(read) > max_bytes


def _limit_memory(process: Process, heap_bytes: int) -> None:
    prlimit = getattr(resource, "prlimit", None)  # Linux
    if prlimit is not None and resource is not None:
        with suppress(ProcessLookupError):
            prlimit(process.pid, resource.RLIMIT_DATA, (heap_bytes, heap_bytes))


def _kill(process: Process) -> None:
    """Kill the process and everything that it started."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:  # pragma: no cover - Windows
                process.kill()


def explained(error: str) -> str:
    """Return git's message with a hint for the model."""
    text = " ".join(error.replace("fatal: ", "").replace("error: ", "").split()) or "it failed without a message"
    if "index.lock" in text:
        return "Another git process is changing this repository, or one was killed there. Try again in a moment."
    if any(words in text.lower() for words in _WITHOUT_OBJECT):
        return f"git: {text}. {MISSING_OBJECT}"
    if "Permission denied" in text:
        return f"git: {text}. Nothing outside the repository is opened, and no program but git is started."
    return f"git: {text}"


def git_programs() -> tuple[str, ...]:
    """Return the paths of git: the program to run, and the one that git uses to start itself.

    The first `git` on the PATH can be a script that starts another; git's own folder contains the real program.

    Raises:
        StartError: Git is not installed.
    """
    first = shutil.which("git")
    if first is None:
        raise StartError("git is not installed, or not on the PATH.")
    asked = subprocess.run([first, "--exec-path"], env=_environment(), capture_output=True, text=True, check=False)
    own = os.path.join(asked.stdout.strip(), os.path.basename(first))
    return tuple(dict.fromkeys((own, first))) if asked.stdout.strip() and os.path.isfile(own) else (first,)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    return {**kept, **ENVIRONMENT}


def _check_version(program: str, environment: Mapping[str, str]) -> None:
    asked = subprocess.run([program, "version"], env=environment, capture_output=True, text=True, check=False)
    said = asked.stdout.split()
    numbers = said[2].split(".")[:2] if len(said) > 2 else []
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        raise StartError(f"{program} does not say its version: {' '.join(said)!r}.")
    if (int(numbers[0]), int(numbers[1])) < OLDEST_GIT:
        raise StartError(f"{program} is version {said[2]}; at least {'.'.join(map(str, OLDEST_GIT))} is needed.")
