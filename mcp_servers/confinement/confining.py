"""Applies a confinement to this process, once, at its start."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mcp_servers.confinement.declared import Confinement
from mcp_servers.confinement.landlock import (
    EXECUTING,
    READING,
    REFER_ABI,
    TCP_ABI,
    WRITING,
    PortRight,
    Ruleset,
    abi_version,
    give_up_privileges,
)
from mcp_servers.confinement.seccomp import filter_calls
from mcp_servers.confinement.surroundings import READABLE, WRITABLE, python_paths, with_interpreters

try:
    import resource
except ImportError:  # pragma: no cover - Windows
    resource = None

_OWNER_ONLY = 0o700


@dataclass
class _Process:
    """State of this process."""

    is_confined: bool = False


_process = _Process()


def is_confined() -> bool:
    """Return whether the kernel confines this process."""
    return _process.is_confined


def confine(confinement: Confinement) -> str:
    """Confine this process and its children permanently.

    It must be called in the main thread before any other thread exists. A kernel without support is not an error.

    Returns:
        A one-line notice if the kernel enforces less than the confinement says; else empty.
    """
    _forbid_core_dumps()
    if not sys.platform.startswith("linux"):
        return _not_confined(f"{sys.platform} has no Landlock")
    try:
        give_up_privileges()
        abi = abi_version()
        if not abi:
            return _not_confined("it has no Landlock (Linux 5.13 has, if not switched off)")
        if confinement.moves_between_folders and abi < REFER_ABI:
            return _not_confined("its Landlock would forbid moving files between folders (Linux 5.19 allows it)")
        _enforce(confinement, abi)
    except OSError as error:
        return _not_confined(f"Landlock failed: {error.strerror}")
    _process.is_confined = True
    return _filter_calls(may_connect=bool(confinement.connects), has_ports=abi >= TCP_ABI)


def _filter_calls(*, may_connect: bool, has_ports: bool) -> str:
    """Install the filter; return a notice if it and Landlock leave some connections unrestricted.

    Args:
        may_connect: Whether the server may connect to some TCP ports.
        has_ports: Whether Landlock restricts TCP to these ports.
    """
    try:
        filter_calls(may_connect=may_connect)
    except OSError as error:
        confined, open_ = ("files and TCP", "other sockets") if has_ports else ("files", "connections")
        return f"The kernel confines this server's {confined}, but not its {open_}: {error.strerror}."
    if may_connect and not has_ports:
        return "The kernel confines this server's files but not its TCP ports (Linux 6.7 does)."
    return ""


def _enforce(confinement: Confinement, abi: int) -> None:
    writes = confinement.writes
    if confinement.has_temporary_folder:
        folder = _temporary_folder()
        os.environ["TMPDIR"] = os.environ["SQLITE_TMPDIR"] = folder  # children inherit it
        writes = (*writes, folder)
    rules = Ruleset(abi)
    rules.allow_paths((*READABLE, *python_paths(), *confinement.reads), READING)
    rules.allow_paths((*WRITABLE, *writes), WRITING)
    rules.allow_paths(with_interpreters(confinement.executes), EXECUTING)
    rules.allow_ports(confinement.connects, PortRight.CONNECT_TCP)
    rules.enforce()


def _temporary_folder() -> str:
    """Return a folder that only this user can open.

    All servers share one, because a confined process could not remove its own folder when it ends.
    """
    usual = Path(tempfile.gettempdir()) / f"mcp-servers-{os.geteuid()}"
    try:
        usual.mkdir(_OWNER_ONLY, exist_ok=True)
        status = usual.lstat()
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if stat.S_ISDIR(status.st_mode) and is_ours:
            return str(usual)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="mcp-servers-")  # another user has taken the name


def _forbid_core_dumps() -> None:
    """Forbid core dumps, which would expose the server's data to other readers of the dump."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _not_confined(reason: str) -> str:
    return f"The kernel does not confine this server: {reason}. Only the server's own checks hold."
