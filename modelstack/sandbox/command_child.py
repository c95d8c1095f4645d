"""The processes around one command in a sandbox: a launcher, the first process of its namespace, the command.

The launcher stays outside of the process namespace. It measures the command, and it ends the first process at a
limit, or when the process that started it is gone; the kernel then ends everything in the namespace, daemons
included. The first process collects orphans and reports how the command ended; as it ends with the command,
nothing outlives it.

Standard library only, and of it little: `python -I -S -c "... main()"` starts for each command, and `json`,
`typing` and `signal` would take half of the start. The job on standard input is a line with its size in bytes,
then names and values, each ended by a NUL, which no path, argument or variable contains; a name that is repeated
has several values. The report on standard output is a dictionary as `ascii` writes it.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
import sys
import time

from modelstack.sandbox.isolation import become_ordinary, leave_the_host, owners_namespace
from modelstack.sandbox.kernel_calls import PR_SET_PDEATHSIG, SIGKILL, IsolationError, call, restore_signal
from modelstack.sandbox.measuring import Disk, processes_below, shared_memory_bytes, usage_of
from modelstack.sandbox.mounts import Folder, View, build_view, enter_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

INSIDE = 1000
"""User and group of the command as it sees them."""
TICK_S = 0.05
"""Seconds between two measurements, or 20 times as long as one takes."""
NOT_ISOLATED, EXITED, STOPPED = "not isolated", "exited", "stopped"
TIME, MEMORY, CPU, DISK = "time limit", "memory limit", "CPU limit", "disk limit"
MAX_WORDS = 500
"""Bytes of an explanation."""
MAX_HANDLES = 1 << 20
"""Exceeds the number of open files of any process."""
NOT_FOUND, NOT_RUN = 127, 126
"""Exit statuses of a command that cannot be started, as in a shell."""
SIGINT, SIGPIPE, SIGXFSZ = 2, 13, 25


class Job:
    """Command, its view and its limits; `modelstack.sandbox.commands` writes it."""

    def __init__(self, data: bytes) -> None:
        """Read a job."""
        words = os.fsdecode(data).split("\0")
        values: dict[str, list[str]] = {}
        for name, value in zip(words[::2], words[1::2], strict=False):  # the last word is empty
            values.setdefault(name, []).append(value)
        one = {name: given[0] for name, given in values.items()}
        self.command = values["command"]
        self.environment = dict(each.split("=", 1) for each in values["environment"])
        self.streams = [int(each) for each in values["stream"]]
        self.root, self.seen_as = one["root"], one["seen_as"]
        self.system_calls = bytes.fromhex(one["filter"])
        user = [int(each) for each in values.get("user", [])]
        self.user = (user[0], user[1]) if user else None
        self.maps_owners = one["maps_owners"] == "True"
        folder = Folder(
            one["folder"],
            int(one["device"]),
            int(one["inode"]),
            seen_as=self.seen_as,
            writable=one["writable"] == "True",
            protected=tuple(values["protected"]),
        )
        self.view = View(
            tuple(values["read_only"]),
            int(one["scratch_bytes"]),
            folder=folder,
            readable=tuple(values.get("readable", [])),
            texts=tuple(zip(values["text_path"], values["text"], strict=True)),
            has_devices=True,
        )
        self.wall_s = float(one["wall_s"])
        self.cpu_s, self.processes = int(one["cpu_s"]), int(one["processes"])
        self.memory_bytes, self.file_bytes = int(one["memory_bytes"]), int(one["file_bytes"])
        self.disk_bytes, self.disk_files = int(one["disk_bytes"]), int(one["disk_files"])
        self.open_files = int(one["open_files"])


def main() -> None:
    """Run one job: isolate, fork, watch, report."""
    job = Job(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))
    deadline = time.monotonic() + job.wall_s
    try:
        process_files, folder = _leave(job)
    except (IsolationError, OSError) as error:
        _report(NOT_ISOLATED, reason=str(error))
        return
    state_end, state = os.pipe()
    disk = Disk(folder, job.disk_bytes, job.disk_files)
    child = os.fork()
    if child == 0:
        os.close(state_end)
        _be_first(job, process_files, state)
    for handle in (state, *job.streams):
        os.close(handle)
    ended = _watch(child, process_files, disk, job, deadline)
    os.waitpid(child, 0)
    with os.fdopen(state_end, "rb") as file:
        found = file.read()
    if not found:
        # Ended before the command began: by a limit, or else by a failed step that could not be told.
        _report(ended) if ended != EXITED else _report(NOT_ISOLATED, reason="the first process ended early")
        return
    kind, _, value = found.decode("utf-8", "replace").partition(" ")
    if kind == "reason":
        _report(NOT_ISOLATED, reason=value)
    else:
        _report(ended, **{kind: int(value)})


def _leave(job: Job) -> tuple[int, int]:
    """Leave the host; return handles of its /proc and of the folder."""
    owners = None
    if job.user is not None:
        for handle in job.streams:
            if stat.S_ISFIFO(os.fstat(handle).st_mode):  # never /dev/null, which belongs to the machine
                os.fchown(handle, *job.user)  # or the command could not open /dev/stdout
        if job.maps_owners:
            owners = owners_namespace(*job.user)
    process_files = leave_the_host(has_loopback=True)
    folder = build_view(job.root, job.view, owners)
    assert folder is not None
    return process_files, folder


def _report(ended: str, **more: object) -> None:
    sys.stdout.write(ascii({"ended": ended, **more}))
    sys.stdout.flush()


def _watch(child: int, process_files: int, disk: Disk, job: Job, deadline: float) -> str:
    """Wait for the end of the first process, or end it at a limit; return what ended it. It is not reaped."""
    poll = select.poll()
    ended_end = os.pidfd_open(child)
    poll.register(ended_end, select.POLLIN)
    poll.register(0, 0)  # reports only a hang-up: the starting process is gone, or wants an end
    tick_s = TICK_S
    while True:
        events = dict(poll.poll(max(0.0, min(tick_s, deadline - time.monotonic())) * 1000))
        if ended_end in events:
            return EXITED
        started = time.monotonic()
        if 0 in events:
            ended = STOPPED
        elif started >= deadline:
            ended = TIME
        else:
            ended = _limit_reached(child, process_files, disk, job)
            tick_s = max(TICK_S, 20 * (time.monotonic() - started))
        if ended:
            os.kill(child, SIGKILL)
            return ended


def _limit_reached(child: int, process_files: int, disk: Disk, job: Job) -> str:
    """Return the limit that all processes together exceed; empty if there is none."""
    processes = processes_below(process_files, child)
    memory_bytes, cpu_s = usage_of(process_files, processes)
    if cpu_s > job.cpu_s:
        return CPU
    is_large = memory_bytes > job.memory_bytes
    if is_large and shared_memory_bytes(process_files, processes) > job.memory_bytes:
        return MEMORY
    return DISK if disk.is_over() else ""


def _be_first(job: Job, process_files: int, state: int) -> NoReturn:
    """Run as the first process: start the command, reap, report its status, exit."""
    try:
        call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        poll = select.poll()
        poll.register(state, 0)
        if poll.poll(0):  # the launcher ended before the line above
            os._exit(0)
        restore_signal(SIGINT)  # without a handler, the first process ignores it
        enter_view(job.root, start=job.seen_as, has_processes=True)
        failure_end, failure = os.pipe()
        command = os.fork()
        if command == 0:
            _be_command(job, process_files, failure)
        for handle in (failure, process_files, *job.streams):
            os.close(handle)
        with os.fdopen(failure_end, "rb") as file:  # closed by the start of the command
            words = file.read().decode("utf-8", "replace")
        if words:
            raise IsolationError(words)
        found = 0, 0
        while found[0] != command:
            found = os.waitpid(-1, 0)
        status = os.waitstatus_to_exitcode(found[1])
        _tell(state, f"status {status}" if status >= 0 else f"signal {-status}")
    except BaseException as error:  # the launcher must be informed of any error
        _tell(state, f"reason {error or type(error).__name__}")
    finally:
        os._exit(0)


def _be_command(job: Job, process_files: int, failure: int) -> NoReturn:
    """Give up all rights and become the command."""
    try:
        become_ordinary(process_files, _kernel_limits(job), job.system_calls, user=job.user, seen_as=INSIDE)
        for number, stream in enumerate(job.streams):
            os.dup2(stream, number)
        os.dup2(failure, 3, inheritable=False)
        os.closerange(4, MAX_HANDLES)
        for number in (SIGPIPE, SIGXFSZ):  # Python ignores them
            restore_signal(number)
        os.umask(0o022)
    except BaseException as error:
        os.write(failure, f"{error}".encode()[:MAX_WORDS] or b"unknown")
        os._exit(1)
    name = job.command[0]
    try:
        os.execvpe(name, job.command, job.environment)
    except OSError as error:
        os.write(2, f"{name}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_RUN)
    except BaseException:
        os._exit(NOT_RUN)


def _tell(state: int, words: str) -> None:
    os.write(state, words.encode("utf-8", "replace")[:MAX_WORDS])


def _kernel_limits(job: Job) -> dict[int, int]:
    """Return the limits of each process, and of processes and threads together."""
    return {
        resource.RLIMIT_NPROC: job.processes,
        resource.RLIMIT_CPU: job.cpu_s,
        # Address space that is only reserved does not count: node and java reserve gigabytes.
        resource.RLIMIT_DATA: job.memory_bytes,
        resource.RLIMIT_FSIZE: job.file_bytes,
        resource.RLIMIT_NOFILE: job.open_files,
        resource.RLIMIT_MEMLOCK: 0,
    }
