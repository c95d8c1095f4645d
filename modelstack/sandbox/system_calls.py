"""System calls that a sandboxed process may not make, as a seccomp filter (seccomp(2)).

Namespaces decide what a process reaches, but some things have no namespace, and each system call is a part of the
kernel that an attacker can search for errors. The filter denies

- sockets other than TCP and UDP in the sandbox's own empty network. UNIX sockets with a path reach host processes
  whose socket lies in a shown folder, and virtual-machine sockets (AF_VSOCK) reach the hypervisor;
- new namespaces, mounts, tracing, keys, BPF, performance counters, io_uring, userfaultfd and others that ordinary
  programs do not need and that kernel exploits of the last years began with;
- memory that no limit counts: files in memory, System V segments, message queues;
- set-user-ID bits, because a file in the writable folder outlives the sandbox on the host;
- input into a terminal (TIOCSTI).

A call that programs probe for fails as on a kernel without it (ENOSYS), so they use another; others fail with
EPERM. Numbers are those of <asm/unistd_64.h> and <asm-generic/unistd.h>. Other machines are not supported.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from modelstack.sandbox.kernel_calls import IsolationError

X86_64, GENERIC = 0, 1
MACHINES = {
    "x86_64": (0xC000003E, X86_64),
    "aarch64": (0xC00000B7, GENERIC),
    "riscv64": (0xC00000F3, GENERIC),
    "loongarch64": (0xC0000102, GENERIC),
}
"""Architecture (<linux/audit.h>) and table of numbers by `uname -m`."""

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "statmount": (457, 457), "listmount": (458, 458), "open_tree_attr": (467, 467),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "syslog": (103, 116),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "vhangup": (153, 58),
    "personality": (135, 92), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "mbind": (237, 235), "set_mempolicy": (238, 237),
    # files by number, and watching whole file systems
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
}  # fmt: skip
"""Calls that fail with EPERM: name, number on x86_64, number on the other machines."""
ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),  # its flags are in memory, where no filter sees them; the C library then uses clone
    "openat2": (437, 437),  # as clone3, with the mode of a new file
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180),
}  # fmt: skip
"""Calls that fail with ENOSYS."""
CHECKED: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "chmod": (90, None),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "mknod": (133, None), "mknodat": (259, 33),
    "creat": (85, None), "open": (2, None), "openat": (257, 56),
}  # fmt: skip
"""Calls that are refused for some arguments."""

_NAMESPACES = 0x7E02_0000  # CLONE_NEW*
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_TYPE_MASK, _STREAM, _DGRAM, _SEQPACKET = 0xF, 1, 2, 5
_TCP, _UDP = 6, 17
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SET_ID = 0o6000  # S_ISUID | S_ISGID
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: otherwise the mode is not an argument
_MODES = {
    "chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mknod": 1, "mknodat": 2, "creat": 1,
}  # fmt: skip
"""Index of the argument with the mode."""
_OPENS = {"open": 1, "openat": 2}
"""Index of the argument with the flags; the mode is the next."""

_Instruction = tuple[int, int, int, int]
"""Instruction of classic BPF: code, jump if true, jump if false, operand."""
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_X32_CALLS = 0x4000_0000  # x86_64's second set of numbers for the same calls


def system_call_filter(machine: str = "") -> bytes:
    """Return the filter as instructions of 8 bytes, for a machine as named by `uname -m`; this one by default.

    Raises:
        IsolationError: The numbers of the machine's system calls are unknown.
    """
    name = machine or os.uname().machine
    if name not in MACHINES or struct.calcsize("P") != 8:
        known = ", ".join(MACHINES)
        raise IsolationError(
            f"no filter of system calls for {name} with {struct.calcsize('P') * 8} bits ({known})"
        )
    architecture, table = MACHINES[name]
    made: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture), _fail(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, _X32_CALLS), _fail(errno.ENOSYS),
    ]  # fmt: skip
    for calls, code in ((REFUSED, errno.EPERM), (ABSENT, errno.ENOSYS)):
        for numbers in calls.values():
            if (number := numbers[table]) is not None:
                made += [(_IF_EQUAL, 0, 1, number), _fail(code)]
    for call_name, numbers in CHECKED.items():
        if (number := numbers[table]) is not None:
            checks = _checks(call_name)
            # A check ends with a return, so the number is still loaded after one that was jumped over.
            made += [(_IF_EQUAL, 0, len(checks), number), *checks]
    made.append(_ALLOW)
    return b"".join(struct.pack("=HBBI", *each) for each in made)


def _checks(name: str) -> list[_Instruction]:
    """Return the instructions for the arguments of a call; they end with a return."""
    if name in _MODES:
        return [*_no_bit(_MODES[name], _SET_ID), _ALLOW]
    if name in _OPENS:
        index = _OPENS[name]
        return [_argument(index), (_IF_ANY_BIT, 1, 0, _CREATES), _ALLOW, *_no_bit(index + 1, _SET_ID), _ALLOW]
    if name == "clone":
        return [*_no_bit(0, _NAMESPACES), _ALLOW]
    if name == "ioctl":
        return [_argument(1), (_IF_EQUAL, 1, 0, _TIOCSTI), (_IF_EQUAL, 0, 1, _TIOCLINUX), _REFUSE, _ALLOW]
    if name == "socketpair":
        # Pairs of datagram sockets are denied: each end may be connected to another path.
        return [*_one_of(0, (_AF_UNIX,)), *_one_of(1, (_STREAM, _SEQPACKET), _TYPE_MASK), _ALLOW]
    return [
        *_one_of(0, (_AF_INET, _AF_INET6)),
        *_one_of(1, (_STREAM, _DGRAM), _TYPE_MASK),
        *_one_of(2, (0, _TCP, _UDP)),
        _ALLOW,
    ]


def _fail(code: int) -> _Instruction:
    return (_RETURN, 0, 0, 0x0005_0000 | code)


_ALLOW: _Instruction = (_RETURN, 0, 0, 0x7FFF_0000)
_REFUSE = _fail(errno.EPERM)


def _argument(index: int) -> _Instruction:
    """Load an argument's lower half, which comes first; the kernel uses only that half of those checked here."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _no_bit(index: int, bits: int) -> list[_Instruction]:
    """Continue if an argument has none of these bits, else refuse."""
    return [_argument(index), (_IF_ANY_BIT, 0, 1, bits), _REFUSE]


def _one_of(index: int, values: Iterable[int], mask: int = 0xFFFF_FFFF) -> list[_Instruction]:
    """Continue if an argument has one of these values, else refuse."""
    known = tuple(values)
    tests = [(_IF_EQUAL, len(known) - place, 0, value) for place, value in enumerate(known)]
    return [_argument(index), (_AND, 0, 0, mask), *tests, _REFUSE]
