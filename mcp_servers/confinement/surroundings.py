"""Paths that every server's process needs in addition to its own: Python, system libraries, a few devices.

None of it is secret: packages, libraries, time zones. `/etc`, `/proc`, `/tmp` and home folders are not included as
a whole: `/proc/PID/cmdline` of another server can hold its token.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

# Package stores are world-readable by design; the libraries of a program in a store may be anywhere in the store.
_LIBRARIES = (
    "/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32",
    "/usr/local/lib", "/usr/local/lib64", "/nix/store", "/gnu/store", "/home/linuxbrew/.linuxbrew",
)  # fmt: skip
_SETTINGS = (
    "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/usr/share/zoneinfo", "/usr/share/locale",
    "/etc/locale.alias",
    # OpenSSL reads its settings whenever it is loaded, also for hashes.
    "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/pki/tls/openssl.d", "/etc/crypto-policies",
)  # fmt: skip
_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# The C library reads these for the number of processors and the memory overcommit limit.
_KERNEL = ("/sys/devices/system/cpu", "/proc/self", "/proc/sys/vm/overcommit_memory", "/proc/meminfo")

READABLE = (*_LIBRARIES, *_SETTINGS, *_DEVICES, *_KERNEL)
WRITABLE = ("/dev/null",)

_SHARED_PREFIXES = ("/usr", "/usr/local")
"""Prefixes of a system's Python, which hold other programs, too. Its own files there are libraries."""

_PACKAGE = str(Path(__file__).resolve().parents[1])
_ELF_MAGIC, _PT_INTERP = b"\x7fELF", 3
_MAX_INTERPRETER_BYTES = 4096


def python_paths() -> tuple[str, ...]:
    """Return the folders of Python, its standard library and packages: modules are imported late, and by children.

    `python -m` puts the working directory first on `sys.path`; it belongs to the launcher and is excluded.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # the working directory has been removed
        here = ""
    searched = (path for path in sys.path if path and os.path.realpath(path) != here)
    prefixes = (prefix for prefix in (sys.prefix, sys.base_prefix) if prefix not in _SHARED_PREFIXES)
    paths = (*prefixes, _PACKAGE, *searched)
    return tuple(dict.fromkeys(path for path in paths if os.path.realpath(path) != os.sep))


def with_interpreters(programs: tuple[str, ...]) -> tuple[str, ...]:
    """Return programs with the ELF interpreters that the kernel executes to load them.

    A process that can choose all arguments of an interpreter can load any readable program with it. The program
    then runs under the same confinement.
    """
    found = (elf_interpreter(program) for program in programs)
    return tuple(dict.fromkeys((*programs, *filter(None, found))))


def elf_interpreter(program: str) -> str | None:
    """Return the interpreter that an ELF program names (elf(5), PT_INTERP); None without one."""
    try:
        with open(program, "rb") as file:
            header = file.read(64)
            if not header.startswith(_ELF_MAGIC):
                return None
            is_64, order = header[4] == 2, "<" if header[5] == 1 else ">"
            (table,) = struct.unpack_from(f"{order}{'Q' if is_64 else 'I'}", header, 32 if is_64 else 28)
            entry_bytes, n_entries = struct.unpack_from(f"{order}HH", header, 54 if is_64 else 42)
            file.seek(table)
            entries = file.read(entry_bytes * n_entries)
            for start in range(0, len(entries), entry_bytes):
                (kind,) = struct.unpack_from(f"{order}I", entries, start)
                if kind == _PT_INTERP:
                    format_, at = ("QQQQ", 8) if is_64 else ("IIII", 4)
                    offset, _, _, size = struct.unpack_from(f"{order}{format_}", entries, start + at)
                    file.seek(offset)
                    return os.fsdecode(file.read(min(size, _MAX_INTERPRETER_BYTES)).rstrip(b"\0"))
    except (OSError, struct.error, IndexError):
        pass
    return None
