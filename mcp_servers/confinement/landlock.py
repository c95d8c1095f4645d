"""Landlock's three system calls through ctypes, and the rights that each version knows.

Numbers and structures are from landlock(7) and <linux/landlock.h>:

    landlock_create_ruleset  444  {u64 handled_access_fs; u64 handled_access_net; u64 scoped}
    landlock_add_rule        445  path beneath: packed {u64 allowed_access; s32 parent_fd}
                                  port: {u64 allowed_access; u64 port}, the port in host byte order
    landlock_restrict_self   446

A right that a ruleset handles is denied unless a rule allows it. A kernel rejects rights that it does not know, so
every set of rights is reduced to the kernel's version (ABI). Not covered up to ABI 7: UNIX sockets that have a
path, and all sockets that are not TCP; `seccomp.py` filters these.

No package is used: `landlock` (PyPI, 1.0.0.dev5 of May 2025) has no TCP rules; `landlockpy` 0.2.0 and
`py-landlock` 0.1.1 have them and are a few months old.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag


class FileRight(IntFlag):
    """LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class PortRight(IntFlag):
    """LANDLOCK_ACCESS_NET_*."""

    BIND_TCP = 1 << 0
    CONNECT_TCP = 1 << 1


class Scope(IntFlag):
    """LANDLOCK_SCOPE_*: denied ways to reach processes outside the confinement."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


READING = FileRight.READ_FILE | FileRight.READ_DIR
# No devices, sockets and pipes: no server creates any.
WRITING = (
    READING | FileRight.WRITE_FILE | FileRight.TRUNCATE | FileRight.REMOVE_DIR | FileRight.REMOVE_FILE
    | FileRight.MAKE_DIR | FileRight.MAKE_REG | FileRight.MAKE_SYM | FileRight.REFER
)  # fmt: skip
EXECUTING = FileRight.EXECUTE | FileRight.READ_FILE
# Rights that the kernel accepts for a path that is not a folder.
_OF_FILES = (
    FileRight.EXECUTE | FileRight.WRITE_FILE | FileRight.READ_FILE | FileRight.TRUNCATE | FileRight.IOCTL_DEV
)

REFER_ABI, TRUNCATE_ABI, TCP_ABI, IOCTL_ABI, SCOPE_ABI = 2, 3, 4, 5, 6

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38
# Machines with the numbers above; MIPS and Alpha have others.
_MACHINES = frozenset(
    {"x86_64", "i386", "i586", "i686", "aarch64", "armv6l", "armv7l", "armv8l", "riscv64", "ppc64", "ppc64le",
     "s390x", "loongarch64"}
)  # fmt: skip


@dataclass(frozen=True)
class Handled:
    """Rights that a ruleset denies unless a rule allows them."""

    files: FileRight
    ports: PortRight
    scope: Scope


def handled_by(abi: int) -> Handled:
    """Return everything that a version of Landlock can deny."""
    files = FileRight(FileRight.REFER - 1)
    if abi >= REFER_ABI:
        files |= FileRight.REFER
    if abi >= TRUNCATE_ABI:
        files |= FileRight.TRUNCATE
    if abi >= IOCTL_ABI:
        files |= FileRight.IOCTL_DEV
    ports = PortRight.BIND_TCP | PortRight.CONNECT_TCP if abi >= TCP_ABI else PortRight(0)
    scope = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= SCOPE_ABI else Scope(0)
    return Handled(files, ports, scope)


def abi_version() -> int:
    """Return the kernel's Landlock version; 0 if it has none or it is disabled."""
    if not sys.platform.startswith("linux") or os.uname().machine not in _MACHINES:
        return 0
    try:
        return _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:  # ENOSYS: an older kernel; EOPNOTSUPP: disabled; EPERM: a container's filter
        return 0


def give_up_privileges() -> None:
    """Keep this thread and its children from gaining privileges, such as by a set-user-ID program (prctl(2)).

    Raises:
        OSError: The kernel refuses.
    """
    checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))


class Ruleset:
    """Collects rules; `enforce` applies them to this thread and everything that it starts."""

    def __init__(self, abi: int) -> None:
        """Deny everything that version `abi` can deny.

        Raises:
            OSError: The kernel refuses.
        """
        self._handled = handled_by(abi)
        fields: list[int] = [self._handled.files]
        if abi >= TCP_ABI:
            fields.append(self._handled.ports)
        if abi >= SCOPE_ABI:
            fields.append(self._handled.scope)
        attributes = struct.pack(f"={len(fields)}Q", *fields)
        self._fd = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)

    def allow_paths(self, paths: Iterable[str], rights: FileRight) -> None:
        """Allow rights on paths and, for folders, on everything below; skips paths that cannot be opened.

        Raises:
            OSError: The kernel refuses.
        """
        for path in paths:
            try:
                opened = os.open(path, os.O_PATH | os.O_CLOEXEC)  # follows links: the rule is for the target
            except OSError:
                continue
            try:
                is_folder = stat.S_ISDIR(os.fstat(opened).st_mode)
                allowed = rights & self._handled.files & (rights if is_folder else _OF_FILES)
                self._add(_PATH_BENEATH, struct.pack("=Qi", allowed, opened))
            finally:
                os.close(opened)

    def allow_ports(self, ports: Iterable[int], rights: PortRight) -> None:
        """Allow rights on TCP ports, if the kernel can deny them.

        Raises:
            OSError: The kernel refuses.
        """
        allowed = rights & self._handled.ports
        for port in ports if allowed else ():
            self._add(_NET_PORT, struct.pack("=QQ", allowed, port))

    def enforce(self) -> None:
        """Restrict this thread and everything that it starts permanently; requires `give_up_privileges` first.

        Raises:
            OSError: The kernel refuses.
        """
        try:
            _syscall(_RESTRICT_SELF, self._fd, 0)
        finally:
            os.close(self._fd)

    def _add(self, kind: int, attributes: bytes) -> None:
        _syscall(_ADD_RULE, self._fd, kind, attributes, 0)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    converted = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    return checked(libc().syscall(ctypes.c_long(number), *converted))


def checked(result: int) -> int:
    """Return the result of a C library call.

    Raises:
        OSError: The result is negative.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def libc() -> ctypes.CDLL:
    """Return the C library with errno preserved."""
    return ctypes.CDLL(None, use_errno=True)
