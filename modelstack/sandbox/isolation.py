"""Isolation of sandbox processes: they reach nothing but the files that they are shown.

A launcher unshares the mount, process, network, IPC and host-name namespaces (as an ordinary user inside a user
namespace), moves to a root of its own (`modelstack.sandbox.mounts`), and forks process 1 of the namespace. What
runs there gives up root if the launcher is root, enters a second user namespace without privileges, drops all
capabilities, gets its limits and a filter of system calls (`modelstack.sandbox.system_calls`). `RLIMIT_NPROC`
counts within that namespace. Order and system calls are those of unprivileged container runtimes; see
namespaces(7), user_namespaces(7), pivot_root(2).

Not covered: errors of the kernel in the system calls that remain; time and load are visible. If the kernel rejects
one of the steps, nothing is run: there is no weaker mode.

A bare interpreter (`-I -S`) imports this file: standard library only.
"""

from __future__ import annotations

import os
import resource

from modelstack.sandbox.kernel_calls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    SIGKILL,
    IsolationError,
    call,
    drop_capabilities,
    install_filter,
    start_loopback,
)

NOBODY = 65534
"""The unprivileged user on every Linux; also the owner that a process without a mapping sees for others' files."""
NO_CORE_BYTES = 1
"""Limit of core dumps. 0 would still feed a program in `core_pattern`; the kernel treats 1 as "none" (core(5))."""
_EVERY_USER = ["0", "0", "4294967295"]
_MAX_BADNESS = 1000


def leave_the_host(*, has_loopback: bool = False) -> int:
    """Unshare this process's namespaces; return a handle of the old /proc.

    Args:
        has_loopback: Whether the new network, which has no other device, can be used within itself.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    uid, gid = os.geteuid(), os.getegid()
    process_files = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    if is_machine_root():
        call("unshare", flags)
    else:
        call("unshare", flags | CLONE_NEWUSER)
        _map_ids(process_files, 0, uid, gid)
    if has_loopback:
        start_loopback()
    return process_files


def is_machine_root() -> bool:
    """Whether this process is root of the machine, not of a user namespace."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.readline().split() == _EVERY_USER


def owners_namespace(user: int, group: int) -> int:
    """Return a handle of a user namespace in which root is this user; for a mount, not for a process.

    It must be called before `leave_the_host`, as the child that it forks would be the first of the namespace.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    ready_end, ready = os.pipe()
    done_end, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call("unshare", CLONE_NEWUSER)
            os.write(ready, b"r")
            os.close(done)
            os.read(done_end, 1)
        finally:
            os._exit(0)
    os.close(ready)
    try:
        if os.read(ready_end, 1) != b"r":
            raise IsolationError("unshare of a user namespace for a mount: refused")
        for name, number in (("uid_map", user), ("gid_map", group)):
            _write(f"/proc/{child}/{name}", f"0 {number} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise IsolationError(f"id map of a mount: {error.strerror}") from error
    finally:
        for handle in (ready_end, done_end, done):
            os.close(handle)
        os.waitpid(child, 0)


def become_ordinary(
    process_files: int,
    limits: dict[int, int],
    system_calls: bytes,
    *,
    user: tuple[int, int] | None,
    seen_as: int = NOBODY,
) -> None:
    """Give up groups, user, capabilities and system calls, and set limits; permanent.

    Args:
        process_files: Handle of a /proc; it is closed.
        limits: Value of each `resource.RLIMIT_...`; no core is dumped in any case.
        system_calls: Program of the filter.
        user: User and group of the machine to become; None keeps those of this process.
        seen_as: Number of the user and group inside.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    os.setsid()  # a signal to the own process group must not reach process 1 or the launcher
    if user is not None:
        # RLIMIT_NPROC does not limit the real root, and root would own its files.
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])
        call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # allows the process to write its own id map
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER)
    _map_ids(process_files, seen_as, uid, gid)
    # The kernel ends these processes first if the machine runs out of memory.
    _write_self(process_files, "oom_score_adj", str(_MAX_BADNESS))
    os.close(process_files)
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    drop_capabilities()
    for name, value in ((resource.RLIMIT_CORE, NO_CORE_BYTES), *limits.items()):
        most = resource.getrlimit(name)[1]  # nobody but root may exceed it
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(name, (allowed, allowed))
    os.environ.clear()
    install_filter(system_calls)


def _map_ids(process_files: int, inside: int, uid: int, gid: int) -> None:
    """Map one user and one group of the outer namespace to the id `inside`."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside} {uid} 1"),
        ("gid_map", f"{inside} {gid} 1"),
    ):
        _write_self(process_files, name, text)


def _write_self(process_files: int, name: str, text: str) -> None:
    """Write a file of this process below a handle of /proc."""
    try:
        handle = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=process_files)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise IsolationError(f"{name}: {error.strerror}", error.errno or 0) from error


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
