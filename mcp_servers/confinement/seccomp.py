"""A seccomp filter (seccomp(2)) for what Landlock does not cover: other sockets, and programs in memory.

Landlock's TCP rules cover `connect` and `bind` of TCP sockets. They leave open:

- UNIX sockets that have a path, through which a container engine or a session bus starts programs for any client;
- Multipath TCP, which connects to the same ports under another protocol;
- data sent with MSG_FASTOPEN, which connects without `connect`;
- UDP, raw and packet sockets;
- io_uring, whose operations no filter sees.

With the filter, a process that may not connect to any port creates no sockets and connects none. A process that
may connect creates TCP and UDP sockets only (DNS uses UDP). Both may create pairs of connected sockets, which
event loops need, and keep inherited sockets.

Landlock's rules for programs cover files that have a path. A program written to a file in memory (memfd_create)
has none and would be executed regardless of the rules; the filter denies such files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_servers.confinement.landlock import checked, libc

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_IO_URING_SETUP = 425
_MSG_FASTOPEN = 0x20000000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_TYPE_MASK, _SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET = 0xF, 1, 2, 5
_ANY_PROTOCOL, _TCP, _UDP = 0, 6, 17

Instruction = tuple[int, int, int, int]
"""Instruction of classic BPF: code, jump if true, jump if false, operand."""
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW: Instruction = (_RETURN, 0, 0, 0x7FFF0000)
_REFUSE: Instruction = (_RETURN, 0, 0, 0x00050000 | errno.EACCES)
_MISSING: Instruction = (_RETURN, 0, 0, 0x00050000 | errno.ENOSYS)
# Offsets in `struct seccomp_data`; an argument's lower half comes first, and the kernel uses only that half of the
# arguments filtered here.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_OTHER_NUMBERS = 0x40000000
"""Lowest number of x86_64's x32 calls, which are the same calls under other numbers."""


@dataclass(frozen=True)
class _Machine:
    """Numbers from <linux/audit.h> and of the system calls."""

    architecture: int
    socket: int
    socketpair: int
    connect: int
    memfd_create: int
    sends: tuple[tuple[int, int], ...]
    """Numbers of sendto, sendmsg and sendmmsg, each with the index of its flags argument."""


_GENERIC = (198, 199, 203, 279, ((206, 3), (211, 2), (269, 3)))
MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, 53, 42, 319, ((44, 3), (46, 2), (307, 3))),
    "aarch64": _Machine(0xC00000B7, *_GENERIC),
    "riscv64": _Machine(0xC00000F3, *_GENERIC),
    "loongarch64": _Machine(0xC0000102, *_GENERIC),
}
"""Machines by `uname -m`; others are not filtered."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def filter_calls(*, may_connect: bool) -> None:
    """Restrict this thread and its children to the sockets above; requires `give_up_privileges` first.

    Raises:
        OSError: The kernel refuses, or the machine's system call numbers are unknown.
    """
    machine = MACHINES.get(os.uname().machine)
    if machine is None or struct.calcsize("P") != 8:  # a 32-bit Python uses other system calls than its kernel
        raise OSError(errno.ENOSYS, f"no filter for {os.uname().machine}")
    program = b"".join(struct.pack("=HBBI", *each) for each in _instructions(machine, may_connect))
    kept = ctypes.create_string_buffer(program)
    given = _Program(len(program) // 8, ctypes.addressof(kept))
    numbers = (ctypes.c_ulong(_MODE_FILTER), ctypes.byref(given), ctypes.c_ulong(0), ctypes.c_ulong(0))
    checked(libc().prctl(_PR_SET_SECCOMP, *numbers))


def _instructions(machine: _Machine, may_connect: bool) -> list[Instruction]:
    made = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, machine.architecture), _MISSING,
        (_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, _OTHER_NUMBERS), _MISSING,
        *_at(_IO_URING_SETUP, [_MISSING]),
        *_at(machine.memfd_create, [_MISSING]),
    ]  # fmt: skip
    for number, flags in machine.sends:
        made += _at(number, [_argument(flags), (_IF_ANY_BIT, 0, 1, _MSG_FASTOPEN), _REFUSE, _ALLOW])
    # Pairs of datagram sockets are denied, because each end may still be connected to another path.
    kinds_of_pairs = _one_of(1, (_SOCK_STREAM, _SOCK_SEQPACKET), _SOCK_TYPE_MASK)
    made += _at(machine.socketpair, [*_one_of(0, (_AF_UNIX,)), *kinds_of_pairs, _ALLOW])
    if may_connect:
        made += _at(machine.socket, _internet())
    else:
        # After a shutdown, the HTTP server's listening socket could be connected where Landlock has no TCP rules.
        made += [*_at(machine.socket, [_REFUSE]), *_at(machine.connect, [_REFUSE])]
    return [*made, _ALLOW]


def _internet() -> list[Instruction]:
    """Allow TCP and UDP sockets, refuse others."""
    kinds = _one_of(1, (_SOCK_STREAM, _SOCK_DGRAM), _SOCK_TYPE_MASK)
    return [*_one_of(0, (_AF_INET, _AF_INET6)), *kinds, *_one_of(2, (_ANY_PROTOCOL, _TCP, _UDP)), _ALLOW]


def _at(number: int, then: list[Instruction]) -> list[Instruction]:
    """Run `then`, which ends with a return, if the call has this number."""
    return [(_LOAD, 0, 0, _NUMBER), (_IF_EQUAL, 0, len(then), number), *then]


def _one_of(index: int, values: Iterable[int], mask: int = 0xFFFFFFFF) -> list[Instruction]:
    """Continue if an argument has one of these values, else refuse."""
    known = tuple(values)
    tests = [(_IF_EQUAL, len(known) - place, 0, value) for place, value in enumerate(known)]
    return [_argument(index), (_AND, 0, 0, mask), *tests, _REFUSE]


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)
