"""Changing files: a change is complete or does not happen, and existing files are only overwritten on request.

New content goes to a temporary file in the same folder, is synced, and is renamed over the name, all relative to
one folder descriptor. "Only if it does not exist" is enforced by creating the name with `O_EXCL` (or `mkdir`),
because a check before a rename is a race. A file with several hard links is refused: one of its names may be
outside the root. `delete` is a move into `.trash`, so a model's mistake can be undone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.editing import apply_edit
from mcp_servers.filesystem.policy import TEMPORARY_PREFIX, TRASH, Limits, PathParts, joined, shown
from mcp_servers.filesystem.results import Change
from mcp_servers.filesystem.root import Root, check_regular, fail, lstat, open_file, open_folder

NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_MODE = 0o666  # minus the umask, as usual for new files
NEW_FOLDER_MODE = 0o777
TOKEN_BYTES = 6


def append_to_file(root: Root, parts: PathParts, text: str, limits: Limits) -> Change:
    """Append a text to a file, starting on a new line; a missing file is created."""
    with root.folder(parts[:-1]) as parent:
        is_there = lstat(parent, parts[-1]) is not None
        if is_there:
            data, status = _edited_file(parent, parts, limits)
            before = _decoded(data, parts)
            between = "" if not before or before.endswith("\n") else "\n"
            _replace(parent, parts, _encoded(before + between + text, limits), status)
    if not is_there:
        return write_file(root, parts, text, overwrite=False, limits=limits)
    return Change(path=joined(parts), change=f"appended {len(text.encode())} bytes")


def write_file(root: Root, parts: PathParts, text: str, overwrite: bool, limits: Limits) -> Change:
    """Create a file, or replace one if `overwrite`."""
    data = _encoded(text, limits)
    with root.folder(parts[:-1]) as parent:
        status = lstat(parent, parts[-1])
        if status is None:
            with _temporary_file(parent, data, NEW_FILE_MODE) as temporary, _claim_file(parent, parts):
                os.replace(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
            return Change(path=joined(parts), change=f"created with {len(data)} bytes")
        _check_writable(status, parts)
        if not overwrite:
            raise ToolFailure(
                f"{shown(joined(parts))!r} exists. Use edit_file to change a part, or set append=true to add to "
                "its end, overwrite=true to replace it."
            )
        _replace(parent, parts, data, status)
    return Change(path=joined(parts), change=f"overwritten with {len(data)} bytes")


def edit_file(root: Root, parts: PathParts, old: str, new: str, replace_all: bool, limits: Limits) -> Change:
    """Replace exact text in a file."""
    with root.folder(parts[:-1]) as parent:
        data, status = _edited_file(parent, parts, limits)
        edit = apply_edit(
            _decoded(data, parts),
            old,
            new,
            replace_all=replace_all,
            max_chars=limits.max_edited_bytes,
            max_diff_lines=limits.max_diff_lines,
        )
        _replace(parent, parts, _encoded(edit.text, limits), status)
    places = "1 place" if edit.replacements == 1 else f"{edit.replacements} places"
    return Change(path=joined(parts), change=f"edited in {places}", diff=edit.diff)


def _edited_file(parent: int, parts: PathParts, limits: Limits) -> tuple[bytes, os.stat_result]:
    """Return the content and status of a file that is to be edited."""
    with open_file(parent, parts) as file:
        status = os.fstat(file.fileno())
        _check_writable(status, parts)
        if status.st_size > limits.max_edited_bytes:
            raise ToolFailure(f"The file is larger than {limits.max_edited_bytes} bytes and cannot be edited.")
        return file.read(limits.max_edited_bytes), status


def create_folder(root: Root, parts: PathParts) -> Change:
    """Create a folder and its missing parents; an existing folder is not an error."""
    created = False
    for depth in range(1, len(parts) + 1):
        with root.folder(parts[: depth - 1]) as parent:
            try:
                os.mkdir(parts[depth - 1], NEW_FOLDER_MODE, dir_fd=parent)
                created = True
            except FileExistsError:
                os.close(open_folder(parent, parts[:depth]))  # raises for a link or a file
            except OSError as error:
                fail(error, parent, parts[:depth])
    return Change(path=joined(parts), change="created" if created else "exists already")


def move(root: Root, source: PathParts, destination: PathParts) -> Change:
    """Move or rename a file or folder; an existing destination is never replaced."""
    if destination[: len(source)] == source:
        raise ToolFailure("A folder cannot be moved into itself.")
    with root.folder(source[:-1]) as source_parent, root.folder(destination[:-1]) as parent:
        _move_entry(source_parent, source, parent, destination)
    return Change(path=joined(destination), change=f"moved from {shown(joined(source))}")


def delete(root: Root, parts: PathParts) -> Change:
    """Move a file or folder into the trash folder of the root."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(TOKEN_BYTES)}"
    target = (TRASH, stamp, parts[-1])
    with root.folder(parts[:-1]) as parent:
        _check_movable(parent, parts)
        create_folder(root, target[:-1])
        with root.folder(target[:-1]) as bin_fd:
            _move_entry(parent, parts, bin_fd, target)
    return Change(path=joined(parts), change=f"deleted; `move` can bring it back from {shown(joined(target))!r}")


def _move_entry(source_parent: int, source: PathParts, parent: int, destination: PathParts) -> None:
    is_folder = _check_movable(source_parent, source)
    claim = _claim_folder if is_folder else _claim_file
    with claim(parent, destination):
        try:
            os.rename(source[-1], destination[-1], src_dir_fd=source_parent, dst_dir_fd=parent)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise ToolFailure("The source is on another disk and cannot be moved there.") from error
            fail(error, source_parent, source)


def _check_movable(parent: int, parts: PathParts) -> bool:
    """Return whether the entry is a folder; entries other than files and folders are refused."""
    status = lstat(parent, parts[-1])
    if status is None:
        fail(FileNotFoundError(errno.ENOENT, ""), parent, parts)
    if stat.S_ISDIR(status.st_mode):
        return True
    check_regular(status, parts)
    return False


def _check_writable(status: os.stat_result, parts: PathParts) -> None:
    check_regular(status, parts)
    if status.st_nlink > 1:
        raise ToolFailure(
            f"{shown(joined(parts))!r} has {status.st_nlink} hard links, so it may also be a file outside the "
            "root; it is not changed. Write a new file instead."
        )


def _replace(parent: int, parts: PathParts, data: bytes, old: os.stat_result) -> None:
    """Replace the content of a file, keeping its permissions."""
    with _temporary_file(parent, data, NEW_FILE_MODE) as temporary:
        try:
            os.chmod(temporary, stat.S_IMODE(old.st_mode) & 0o777, dir_fd=parent)
            os.replace(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            fail(error, parent, parts)


@contextmanager
def _temporary_file(parent: int, data: bytes, mode: int) -> Iterator[str]:
    """Yield the name of a synced file with `data`; removed on exit if it was not renamed."""
    name = TEMPORARY_PREFIX + secrets.token_hex(TOKEN_BYTES)
    try:
        with os.fdopen(os.open(name, NEW_FILE_FLAGS, mode, dir_fd=parent), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield name
    except OSError as error:
        raise ToolFailure(f"Nothing was written: {os.strerror(error.errno or 0).lower()}.") from error
    else:
        os.fsync(parent)  # syncs the rename itself
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)


@contextmanager
def _claim_file(parent: int, parts: PathParts) -> Iterator[None]:
    """Reserve the name with a new empty file; removed if the body fails."""
    try:
        os.close(os.open(parts[-1], NEW_FILE_FLAGS, NEW_FILE_MODE, dir_fd=parent))
    except OSError as error:
        _fail_claim(error, parent, parts)
    try:
        yield
    except BaseException:
        os.unlink(parts[-1], dir_fd=parent)
        raise


@contextmanager
def _claim_folder(parent: int, parts: PathParts) -> Iterator[None]:
    """Reserve the name with an empty folder, which `rename` may replace by a folder."""
    try:
        os.mkdir(parts[-1], NEW_FOLDER_MODE, dir_fd=parent)
    except OSError as error:
        _fail_claim(error, parent, parts)
    try:
        yield
    except BaseException:
        os.rmdir(parts[-1], dir_fd=parent)
        raise


def _fail_claim(error: OSError, parent: int, parts: PathParts) -> None:
    if error.errno in (errno.EEXIST, errno.ELOOP):
        raise ToolFailure(f"{shown(joined(parts))!r} exists already. Choose another name.") from error
    fail(error, parent, parts)


def _encoded(text: str, limits: Limits) -> bytes:
    data = text.encode()
    if len(data) > limits.max_edited_bytes:
        raise ToolFailure(f"The text has {len(data)} bytes; at most {limits.max_edited_bytes} can be written.")
    return data


def _decoded(data: bytes, parts: PathParts) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ToolFailure(f"{shown(joined(parts))!r} is not UTF-8 text and cannot be edited.") from None
