"""Isolation of sandbox processes: they can compute within limits and write to a small folder in memory.

A launcher unshares the mount, process, network, IPC and host-name namespaces (as an ordinary user inside a user
namespace), builds a root of read-only library folders on a tmpfs, and forks. The child is process 1 of its
namespace. It gives up root if the launcher is root, enters a second user namespace without privileges, drops all
capabilities, and gets its limits: `RLIMIT_NPROC` of 1 counts within that namespace, so it cannot fork or start a
thread, and `RLIMIT_AS` limits its address space. Order and system calls are those of unprivileged container
runtimes; see namespaces(7), user_namespaces(7), pivot_root(2).

Not covered: system calls are not filtered, so vulnerabilities of the kernel are reachable (for example, another,
empty user namespace can be created); the library folders can be read; time and load are visible. If the kernel
rejects one of the steps, nothing is run: there is no weaker mode.

A bare interpreter (`-I -S`) imports this file: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat

from modelstack.sandbox.limits import Limits

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_NOATIME, MS_NODIRATIME, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 16384, 1 << 18, 1 << 21
ST_RELATIME = 4096
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION_3 = 0x2008_0522
SIGKILL = 9
NOBODY = 65534
"""The unprivileged user on every Linux; also the owner that a process without a mapping sees for others' files."""
LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
"""Folders of libraries that extension modules of the standard library link to."""
SCRATCH = "/tmp"


class IsolationError(Exception):
    """Raised if the kernel rejected a step; nothing was run."""


def leave_the_host(root: str, limits: Limits) -> int:
    """Unshare and move to a new root, mounted at an empty folder; return a handle of the old /proc.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    as_root = os.geteuid() == 0
    uid, gid = os.geteuid(), os.getegid()
    process_files = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    _call("unshare", flags if as_root else flags | CLONE_NEWUSER)
    if not as_root:
        _map_ids(process_files, 0, uid, gid)
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    size = f"size={2 * limits.file_bytes},nr_inodes=4096,mode=755"
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, size)
    for folder in _library_folders():
        _show_read_only(folder, root)
    os.mkdir(root + SCRATCH)
    os.chmod(root + SCRATCH, stat.S_ISVTX | 0o777)
    os.chdir(root)
    # Stacks the old root on the new one and unmounts it, so no folder for it is needed.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir(SCRATCH)
    return process_files


def become_nobody(process_files: int, limits: Limits) -> None:
    """Give up groups, user, capabilities, processes and memory. Called in the forked child.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    os.setsid()  # a signal to the own process group must not reach the launcher
    if os.geteuid() == 0 and _is_first_user_namespace(process_files):
        # RLIMIT_NPROC does not limit the real root, and root would own its files.
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # allows the process to write its own id map
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER)
    _map_ids(process_files, NOBODY, uid, gid)
    os.close(process_files)
    _call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        resource.setrlimit(name, (value, value))
    os.environ.clear()
    os.umask(0o077)


def _is_first_user_namespace(process_files: int) -> bool:
    """Whether user ids here are those of the machine, not of the launcher's own namespace with one entry."""
    with os.fdopen(os.open("self/uid_map", os.O_RDONLY, dir_fd=process_files), encoding="ascii") as file:
        return [int(number) for number in file.readline().split()][2] > 1


def _map_ids(process_files: int, inside: int, uid: int, gid: int) -> None:
    """Map one user and one group of the outer namespace to the id `inside`."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside} {uid} 1"),
        ("gid_map", f"{inside} {gid} 1"),
    ):
        try:
            handle = os.open(f"self/{name}", os.O_WRONLY, dir_fd=process_files)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise IsolationError(f"{name}: {error.strerror}") from error


def _library_folders() -> list[str]:
    """Return library folders and the standard library's own, without folders inside others."""
    folders: list[str] = []
    for folder in (*LIBRARY_FOLDERS, os.path.dirname(os.path.realpath(os.__file__))):
        inside = any(folder.startswith(f"{other}/") for other in folders if not os.path.islink(other))
        if os.path.isdir(folder) and not inside:
            folders.append(folder)
    return folders


def _show_read_only(folder: str, root: str) -> None:
    """Make a folder of the host visible under the new root, read-only."""
    inside = root + folder
    if os.path.islink(folder):
        # /lib is a link to usr/lib on most systems.
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.symlink(os.readlink(folder), inside)
        return
    os.makedirs(inside, exist_ok=True)
    _mount(folder, inside, None, MS_BIND)
    # A mount's stricter flags must be repeated, or an unprivileged remount is rejected.
    found = os.statvfs(inside).f_flag
    kept = found & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
    kept |= MS_RELATIME if found & ST_RELATIME else 0
    _mount(None, inside, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    arguments = (text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data))
    _call("mount", *arguments, note=f" {source or ''} at {target}")


def _call(name: str, *arguments: object, note: str = "") -> None:
    """Call a function of the C library; raise an error with its name if it fails."""
    ctypes.set_errno(0)
    if getattr(_C, name)(*arguments) != 0:
        raise IsolationError(f"{name}{note}: {os.strerror(ctypes.get_errno())}")


_C = ctypes.CDLL(None, use_errno=True)
