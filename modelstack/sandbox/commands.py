"""Commands in the sandbox: one program of the machine, with everything that it starts, in one folder.

`start_command` starts a launcher (`modelstack.sandbox.command_child`), which leaves the host, runs the command and
ends whatever it started. Isolation is all or nothing: if the kernel rejects a step, nothing is run, and the error
states the step.
"""

from __future__ import annotations

import ast
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.sandbox.launching import filter_of_this_machine, launcher_command, refusal
from modelstack.sandbox.limits import CommandLimits

COMMANDS = "sandboxed commands"
DEFAULT_LIMITS = CommandLimits()
COMMAND = launcher_command("modelstack.sandbox.command_child")
GRACE_S = 20.0
"""Seconds beyond the launcher's own deadline, for starting an interpreter on a busy machine."""
MAX_PRODUCED_BYTES = 64 << 20
"""Bytes of output after which a command is ended, although most of them were dropped."""
MAX_INPUT_BYTES = 64 << 20
OUTPUT_LIMIT = "output limit"
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
SETTINGS = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/mime.types", "/etc/magic", "/etc/ssl/openssl.cnf", "/etc/perl", "/etc/python3", "/etc/terminfo",
)  # fmt: skip
"""Files of /etc that programs need and that name no user and no service."""
TEXTS = (
    ("/etc/passwd", "agent:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
    ("/etc/group", "agent:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
)
"""Files of /etc with the content that they have in every sandbox."""
HIDDEN_FOLDERS = ("/", "/proc", "/sys", "/dev", "/etc", "/run")
"""Folders that cannot be shown: they hold the host's processes, devices, sockets and settings."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK_BYTES = 1 << 16
_SHOWN_WORDS = 500
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class CommandResult:
    """End of a command and its output."""

    exit_status: int | None
    """Exit status; None if a signal or a limit ended it. 127: the command was not found."""
    signal: int | None
    """Number of the signal that ended it."""
    stopped_by: str | None
    """Reason for which the sandbox ended it: "time limit", "memory limit", "CPU limit", "disk limit",
    "output limit" or "stopped" (by the caller); None if it ended by itself."""
    stdout: bytes
    """Standard output; of a long one the first and the last half of the bytes kept."""
    stderr: bytes
    stdout_dropped: int
    """Bytes dropped from the middle of `stdout`."""
    stderr_dropped: int
    duration_s: float

    @property
    def timed_out(self) -> bool:
        """Whether the time limit ended it."""
        return self.stopped_by == "time limit"

    @property
    def stdout_truncated(self) -> bool:
        """Whether `stdout` lacks its middle."""
        return self.stdout_dropped > 0

    @property
    def stderr_truncated(self) -> bool:
        """Whether `stderr` lacks its middle."""
        return self.stderr_dropped > 0


class LauncherEnded(Exception):
    """Raised if a launcher was ended from outside, for example for want of memory: the outcome is unknown."""


class Output:
    """First and last bytes of a stream."""

    def __init__(self, max_bytes: int) -> None:
        """Keep at most `max_bytes`."""
        self._half = max(1, max_bytes // 2)
        self._head, self._tail = bytearray(), bytearray()
        self.n_bytes = 0
        """Bytes added so far."""

    def add(self, data: bytes) -> None:
        """Add bytes at the end."""
        self.n_bytes += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:  # not at every byte: removing from the front moves the rest
            del self._tail[: -self._half]

    def kept(self) -> tuple[bytes, int]:
        """Return the bytes kept, and the number dropped between their two halves."""
        tail = self._tail[-self._half :]
        return bytes(self._head + tail), self.n_bytes - len(self._head) - len(tail)

    def last_line(self) -> str:
        """Return the last line that is not empty, for a progress message."""
        lines = (bytes(self._tail[-_SHOWN_WORDS:]) or bytes(self._head[-_SHOWN_WORDS:])).split(b"\n")
        return next((line.decode("utf-8", "replace") for line in reversed(lines) if line.strip()), "")


class RunningCommand:
    """A command that has been started; `wait` once, from any thread."""

    def __init__(
        self, process: subprocess.Popen[bytes], streams: tuple[int, int], limits: CommandLimits, stack: ExitStack
    ) -> None:
        """Take over a launcher, the ends of its command's outputs, and what is closed after it."""
        self._process, self._streams, self._limits, self._stack = process, streams, limits, stack
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._is_waited_for = True
        self.stdout, self.stderr = Output(limits.output_bytes), Output(limits.output_bytes)

    def stop(self) -> None:
        """End the command and everything that it started; `wait` then returns. Can be called from any thread."""
        with self._lock:
            if self._is_waited_for and self._process.stdin is not None:
                with suppress(BrokenPipeError):  # unsent data are still in the buffer
                    self._process.stdin.close()

    def wait(self) -> CommandResult:
        """Block until the command has ended and return its result.

        Raises:
            UserError: This machine cannot isolate processes.
            LauncherEnded: The outcome of the command is unknown.
        """
        try:
            report, words, is_flood = self._read()
        finally:
            self.stop()
            with self._lock:
                self._is_waited_for = False
            self._process.kill()  # at once, where an error ended the reading; the kernel then ends the command
            self._process.wait()
            self._stack.close()
        if not report:
            raise LauncherEnded(f"the sandbox of a command ended: {words[-_SHOWN_WORDS:] or 'no reason is known'}")
        found: dict[str, Any] = ast.literal_eval(report)
        if found["ended"] == "not isolated":
            raise _refusal(found["reason"])
        stopped_by = OUTPUT_LIMIT if is_flood else found["ended"]
        (stdout, stdout_dropped), (stderr, stderr_dropped) = self.stdout.kept(), self.stderr.kept()
        return CommandResult(
            exit_status=found.get("status"),
            signal=found.get("signal"),
            stopped_by=None if stopped_by == "exited" else stopped_by,
            stdout=stdout,
            stderr=stderr,
            stdout_dropped=stdout_dropped,
            stderr_dropped=stderr_dropped,
            duration_s=time.monotonic() - self._started,
        )

    def _read(self) -> tuple[str, str, bool]:
        """Read all streams to their ends; return the report, the launcher's errors, and whether it was a flood."""
        assert self._process.stdout is not None and self._process.stderr is not None
        report, words = Output(_CHUNK_BYTES), Output(_CHUNK_BYTES)
        outputs = {
            self._streams[0]: self.stdout,
            self._streams[1]: self.stderr,
            self._process.stdout.fileno(): report,
            self._process.stderr.fileno(): words,
        }
        deadline = self._started + self._limits.wall_s + GRACE_S
        is_flood = False
        with selectors.DefaultSelector() as selector:
            for handle in outputs:
                selector.register(handle, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    self._process.kill()
                    deadline = float("inf")
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    outputs[key.fd].add(chunk)
                    if not chunk:
                        selector.unregister(key.fd)
                if not is_flood and self.stdout.n_bytes + self.stderr.n_bytes > MAX_PRODUCED_BYTES:
                    is_flood = True
                    self.stop()
        return report.kept()[0].decode(), words.kept()[0].decode("utf-8", "replace").strip(), is_flood


def start_command(
    command: Sequence[str],
    *,
    folder: Path,
    readable: Sequence[Path] = (),
    writable: bool = True,
    seen_as: str | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    limits: CommandLimits = DEFAULT_LIMITS,
) -> RunningCommand:
    """Start a command that reaches the folder, the machine's programs and libraries, and nothing else.

    Args:
        command: Program and arguments; a name without a slash is searched in PATH inside.
        folder: Working directory. Git's own folder in it and this process's Python stay read-only.
        readable: Files and folders of the host that the command may read, at their own paths.
        writable: Whether the folder may be changed.
        seen_as: Absolute path under which the command sees the folder; None for its own.
        stdin: Standard input.
        environment: Variables in addition to PATH, HOME, TMPDIR and LANG.
        limits: Limits of the command with everything that it starts.

    Raises:
        UserError: An argument is invalid, or this machine cannot isolate processes.
    """
    system_calls = filter_of_this_machine(COMMANDS)
    _check(command, stdin, environment or {}, limits)
    with ExitStack() as stack:
        opened = _opened(folder)
        stack.callback(os.close, opened)
        streams = [_input(stdin)]
        stack.callback(os.close, streams[0])
        ends: list[int] = []
        closed_here = ExitStack()
        stack.callback(closed_here.close)
        for _ in range(2):
            end, stream = os.pipe()
            stack.callback(os.close, end)
            closed_here.callback(os.close, stream)
            ends.append(end)
            streams.append(stream)
        root = tempfile.mkdtemp(prefix="agentkit-sandbox-")
        stack.callback(os.rmdir, root)
        job: dict[str, Sequence[object]] = {
            "command": command,
            "environment": [f"{name}={value}" for name, value in _environment(environment or {}).items()],
            "stream": streams,
            "root": [root],
            "filter": [system_calls],
            **{name: [value] for name, value in limits._asdict().items()},
            **_who(os.fstat(opened)),
            **_view(opened, list(readable), seen_as),
            "writable": [writable],
        }
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=streams,
            start_new_session=True,
            env={},
        )
        closed_here.close()
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        stack.callback(process.stderr.close)
        stack.callback(process.stdout.close)
        with suppress(BrokenPipeError):  # the launcher ended at once; `wait` handles this
            process.stdin.write(_encoded(job))
            process.stdin.flush()
        return RunningCommand(process, (ends[0], ends[1]), limits, stack.pop_all())


def kept_read_only(folder: str) -> tuple[str, ...]:
    """Return the paths in a folder, relative, that this process runs: its Python and packages.

    Whatever changes them runs in this process later, outside of every sandbox.
    """
    return tuple(sorted(os.path.relpath(each, folder) for each in _pythons() if _is_below(each, folder)))


def _encoded(job: Mapping[str, Sequence[object]]) -> bytes:
    """Return a job as `modelstack.sandbox.command_child` reads it."""
    words = (os.fsencode(f"{name}\0{value}\0") for name, values in job.items() for value in values)
    data = b"".join(words)
    return b"%d\n" % len(data) + data


def _check(command: Sequence[str], stdin: bytes, environment: Mapping[str, str], limits: CommandLimits) -> None:
    if not command or isinstance(command, str):
        raise UserError(f"command {command!r} must be a list of a program and its arguments, like ['ls', '-l'].")
    if any("\0" in word for word in (*command, *environment, *environment.values())):
        raise UserError("an argument or a variable has a NUL character, which no program can receive. Remove it.")
    if wrong := [name for name in environment if not name or "=" in name]:
        raise UserError(f"environment variable {wrong[0]!r} must have a name without '='.")
    for name, limit in limits._asdict().items():
        if not limit > 0 or (name != "wall_s" and not isinstance(limit, int)):
            kind = "a number" if name == "wall_s" else "an integer"
            raise UserError(f"limit {name}={limit!r} of a sandbox must be {kind} above zero.")
    if len(stdin) > MAX_INPUT_BYTES:
        raise UserError(
            f"stdin has {len(stdin)} bytes; at most {MAX_INPUT_BYTES}. Put it into a file of the folder."
        )


def _opened(folder: Path) -> int:
    try:
        return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UserError(
            f"folder {str(folder)!r} of a sandbox cannot be opened: {error}. Create it first."
        ) from error


def _input(data: bytes) -> int:
    """Return a handle from which the bytes are read, and which cannot be written."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY)
    import fcntl

    handle = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(data)
    os.lseek(handle, 0, os.SEEK_SET)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return handle


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    own_programs = os.path.dirname(sys.executable)
    path = _PATH if own_programs in _PATH.split(":") else f"{own_programs}:{_PATH}"
    return {"PATH": path, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", **given}


def _who(folder: os.stat_result) -> dict[str, list[object]]:
    """Return the user that the command becomes where this process is root: the folder's owner, never root."""
    from modelstack.sandbox.isolation import is_machine_root

    if not is_machine_root():
        return {"maps_owners": [False]}
    if folder.st_uid == 0:
        return {"user": [_NOBODY, _NOBODY], "maps_owners": [True]}
    return {"user": [folder.st_uid, folder.st_gid or _NOBODY], "maps_owners": [False]}


def _view(opened: int, readable: Sequence[Path], seen_as: str | None) -> dict[str, Sequence[object]]:
    """Return what the command sees, by the names of `modelstack.sandbox.mounts`."""
    status, path = os.fstat(opened), os.path.realpath(f"/proc/self/fd/{opened}")
    place = path if seen_as is None else os.path.normpath(seen_as)
    if path in HIDDEN_FOLDERS or path.startswith(("/proc/", "/sys/", "/dev/")):
        raise UserError(f"folder {path!r} cannot be the folder of a sandbox. Give it a folder of its own.")
    if not place.startswith("/") or place in (*HIDDEN_FOLDERS, *SYSTEM_FOLDERS, "/tmp"):
        raise UserError(
            f"a sandbox cannot show its folder as {place!r}. Name a place that the system does not use."
        )
    given = [os.path.realpath(each, strict=False) for each in readable]
    if missing := [each for each in given if not os.path.exists(each)]:
        raise UserError(f"readable {missing[0]!r} does not exist. Leave it out, or create it.")
    inside = {*kept_read_only(path), *(os.path.relpath(each, path) for each in given if _is_below(each, path))}
    system = [each for each in (*SYSTEM_FOLDERS, *SETTINGS) if os.path.lexists(each)]
    if covered := [each for each in given if _is_below(each, place) and not _is_below(each, path)]:
        raise UserError(
            f"readable {covered[0]!r} lies where the folder is shown ({place!r}). Choose another `seen_as`."
        )
    # A path in the folder is shown as a part of it.
    read_only = _outermost([*system, *(each for each in _pythons() if not _is_below(each, place))])
    beside = [each for each in _outermost(given) if not _is_below(each, place)]
    return {
        "read_only": read_only,
        "readable": [each for each in beside if not any(_is_below(each, other) for other in read_only)],
        "text_path": [name for name, _ in TEXTS],
        "text": [text for _, text in TEXTS],
        "folder": [path],
        "device": [status.st_dev],
        "inode": [status.st_ino],
        "seen_as": [place],
        "protected": sorted({".git", *inside} - {"."}),
    }


def _pythons() -> list[str]:
    """Return the folders of this process's Python and its packages, outside of the system's folders."""
    folders = (sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
    return [each for each in dict.fromkeys(folders) if each not in ("/", "/usr", "/usr/local")]


def _outermost(paths: Sequence[str]) -> list[str]:
    """Return paths without those below others; a link has nothing below it."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(_is_below(path, other) for other in kept if not os.path.islink(other)):
            kept.append(path)
    return kept


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _refusal(reason: str) -> UserError:
    if "(owners)" in reason:
        return UserError(
            f"the sandbox's folder belongs to root, and its file system cannot show it to another user "
            f"({reason}). Run the agent as an ordinary user, or give the folder to one: chown -R 1000:1000 FOLDER."
        )
    return refusal(COMMANDS, reason)
