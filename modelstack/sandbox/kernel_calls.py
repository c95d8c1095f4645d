"""System calls of the sandbox through the C library, with an error that names the rejected step.

Numbers are those of <asm/unistd.h>; calls from 424 on have one number on every machine. See mount_setattr(2),
open_tree(2), move_mount(2), capabilities(7).

A bare interpreter (`-I -S`) imports this file: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC, ATTR_IDMAP = 1, 2, 4, 8, 0x10_0000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x2008_0522
SIGKILL = 9

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS, _IFF_UP = 2, 2, 0x8914, 1
_MOVE_FROM_HANDLE, _MOVE_TO_HANDLE = 0x4, 0x40


class IsolationError(Exception):
    """Raised if the kernel rejected a step; nothing was run."""

    def __init__(self, message: str, code: int = 0) -> None:
        """Describe the step; `code` is the C library's `errno`, 0 for another reason."""
        super().__init__(message)
        self.code = code


def call(name: str, *arguments: object, note: str = "") -> None:
    """Call a function of the C library.

    Raises:
        IsolationError: It failed; the message has its name and `note`.
    """
    ctypes.set_errno(0)
    if getattr(_C, name)(*arguments) != 0:
        raise _rejected(name + note)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system.

    Raises:
        IsolationError: The kernel rejects it.
    """
    words = [None if value is None else os.fsencode(value) for value in (source, target, kind, data)]
    call("mount", *words[:3], ctypes.c_ulong(flags), words[3], note=f" {source or ''} at {target}")


def copied_tree(path: str, *, below: int = _AT_FDCWD) -> int:
    """Return a handle of a detached copy of the mount at a path, with all mounts in it.

    Args:
        path: A path whose last name is no link; empty for the folder `below` itself.
        below: Handle of the folder to which the path is relative.

    Raises:
        IsolationError: The kernel rejects it.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | _AT_SYMLINK_NOFOLLOW
    flags |= 0 if path else _AT_EMPTY_PATH
    return _system_call(_OPEN_TREE, f"open_tree {path}", below, os.fsencode(path), flags)


def set_attributes(tree: int, attributes: int, *, user_namespace: int = 0, recursive: bool = True) -> None:
    """Set attributes of the mount with a handle, and of all mounts in it.

    Raises:
        IsolationError: The kernel rejects it.
    """
    words = struct.pack("=4Q", attributes, 0, 0, user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    note = "mount_setattr" + (" (owners)" if attributes & ATTR_IDMAP else "")
    _system_call(_MOUNT_SETATTR, note, tree, b"", flags, words, len(words))


def attach(tree: int, target: int) -> None:
    """Attach a detached mount at the file or folder with the handle `target`.

    Raises:
        IsolationError: The kernel rejects it.
    """
    _system_call(_MOVE_MOUNT, "move_mount", tree, b"", target, b"", _MOVE_FROM_HANDLE | _MOVE_TO_HANDLE)


def install_filter(program: bytes) -> None:
    """Filter the system calls of this process and its children permanently (seccomp(2)).

    Args:
        program: Instructions of classic BPF, 8 bytes each; see `modelstack.sandbox.system_calls`.

    Raises:
        IsolationError: The kernel rejects it.
    """
    kept = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, given, 0, 0, note=" (filter of system calls)")


def start_loopback() -> None:
    """Start the loopback device of this process's own network (netdevice(7)).

    Raises:
        IsolationError: The kernel rejects it.
    """
    opened = _C.socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0)
    if opened < 0:
        raise _rejected("socket for the loopback device")
    try:
        call("ioctl", opened, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP), note=" (loopback device)")
    finally:
        os.close(opened)


def restore_signal(number: int) -> None:
    """Give a signal its default effect; Python ignores some, and the modules for it would take 5 ms to import."""
    _C.signal(number, None)


def drop_capabilities() -> None:
    """Drop all capabilities of this process.

    Raises:
        IsolationError: The kernel rejects it.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def _system_call(number: int, note: str, *arguments: int | bytes) -> int:
    ctypes.set_errno(0)
    converted = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    result = _C.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise _rejected(note)
    return result


def _rejected(step: str) -> IsolationError:
    code = ctypes.get_errno()
    return IsolationError(f"{step}: {os.strerror(code)}", code)


_C = ctypes.CDLL(None, use_errno=True)
