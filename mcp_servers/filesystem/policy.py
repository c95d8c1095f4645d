"""Path rules and the limits of one call: pure functions without I/O or MCP.

A path is data until it is a tuple of names; only `root.Root` turns names into descriptors. So no code here checks
whether a path "is inside" the root: there is no string comparison to circumvent (CVE-2025-53110, prefix compare)
and no resolved string for a later open to resolve again (CVE-2025-53109, link swapped in between).
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import escaped, visible

# POSIX NAME_MAX and PATH_MAX on Linux and macOS.
MAX_NAME_BYTES = 255
"""Bytes of a name."""
MAX_PATH_BYTES = 4096
"""Bytes of a path."""
MAX_DEPTH = 64
"""Levels of a path: each holds one descriptor, and 64 times 4 calls stay far below the usual limit of 1,024."""
TRASH = ".trash"
TEMPORARY_PREFIX = ".mcp-tmp-"
GIT_FOLDER = ".git"
# Short name (8.3) of `.git` on Windows' file systems, also valid through a mount.
_SHORT_GIT_FOLDER = "git~1"

PathParts = tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Limits of one call. The defaults keep an answer below about 8,000 tokens, a small model's context."""

    max_text_bytes: int = 32 * 1024
    """Bytes of text that one read returns."""
    max_scanned_bytes: int = 256 * 1024 * 1024
    """Size of the largest file that is read at all; counting its lines takes a quarter of a second."""
    max_searched_bytes: int = 4 * 1024 * 1024
    """Size above which `search_text` skips a file and counts it as skipped."""
    max_edited_bytes: int = 4 * 1024 * 1024
    """Size of the largest file that `edit_file` takes, and of the largest text that `write_file` takes."""
    max_entries: int = 1_000
    """Entries that one listing returns."""
    max_walked: int = 100_000
    """Entries that one tree or search visits."""
    max_matches: int = 100
    """Matches that one search returns."""
    max_line_chars: int = 200
    """Characters of a matching line that are shown."""
    max_diff_lines: int = 100
    """Lines of the diff that an edit returns."""
    search_timeout_s: float = 5.0
    """Seconds for one search; agentkit waits 30 s for a call."""


def parse_path(text: str) -> PathParts:
    """Split a relative path into names; `.` is the root, the empty tuple.

    The text is taken literally: percent signs and backslashes are not decoded, names are not normalised.

    Raises:
        ToolFailure: The path is empty, absolute, has a `..`, a control character, or is too long or deep.
    """
    if not text:
        raise ToolFailure("The path is empty. Use '.' for the root folder.")
    _check_encodable(text)
    if text.startswith("/"):
        raise ToolFailure(f"{shown(text)} is absolute. Paths are relative to the root: {_relative_hint(text)}.")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise ToolFailure(f"The path is longer than {MAX_PATH_BYTES} bytes.")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ToolFailure("'..' is not allowed. Write the whole path from the root folder.")
    if len(parts) > MAX_DEPTH:
        raise ToolFailure(f"The path has {len(parts)} levels; at most {MAX_DEPTH} are allowed.")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ToolFailure(f"A name in the path is longer than {MAX_NAME_BYTES} bytes.")
    return parts


def parse_entry(text: str) -> PathParts:
    """Parse the path of an entry to list, search or read.

    Raises:
        ToolFailure: As `parse_path`, or the path is reserved.
    """
    parts = parse_path(text)
    _refuse_reserved(text, parts)
    return parts


def parse_target(text: str) -> PathParts:
    """Parse the path of an entry to change; the root, reserved entries and `.git` are refused.

    Raises:
        ToolFailure: As `parse_path`, or the path is the root, reserved, or in a `.git` or one itself.
    """
    parts = parse_source(text)
    if not parts:
        raise ToolFailure("The root folder itself cannot be changed. Name a file or folder in it.")
    _refuse_reserved(text, parts)
    return parts


def parse_source(text: str) -> PathParts:
    """Parse the path of an entry to move; the source of a move changes too.

    Deleted entries are in the trash, which is reserved, but may be moved out of it. Write access to a `.git` is
    refused because its files choose programs that git runs (hooks, filters, `core.fsmonitor`).

    Raises:
        ToolFailure: As `parse_path`, or the path is reserved, or in a `.git` or one itself.
    """
    parts = parse_path(text)
    is_deleted = len(parts) > 2 and parts[0] == TRASH  # .trash/TIME/NAME and what is below
    if not is_deleted or any(map(_is_temporary, parts)):
        _refuse_reserved(text, parts)
    if any(map(is_git_folder, parts)):
        raise ToolFailure(
            f"{shown(text)!r} is a repository's own folder {GIT_FOLDER} or in it, which can be read and not "
            "changed here: git runs programs that its files name. Use git itself."
        )
    return parts


def is_git_folder(name: str) -> bool:
    """Return whether some file system treats a name as `.git`.

    File systems ignore letter case (macOS, Windows), characters without a width (HFS+), dots and spaces at the end
    (NTFS), or have a second name for it (NTFS). Git refuses the same names in a checkout (CVE-2014-9390).
    """
    return _folded(name) in (GIT_FOLDER, _SHORT_GIT_FOLDER)


def is_reserved(parts: PathParts) -> bool:
    """Return whether an entry belongs to the server: the root's trash with its contents, or a temporary file.

    No tool shows, reads or changes one, except that `move` takes entries out of the trash.
    """
    is_in_trash = parts != () and _is_unusual(parts[0]) and _folded(parts[0]) == TRASH
    return is_in_trash or any(map(_is_temporary, parts))


def _refuse_reserved(text: str, parts: PathParts) -> None:
    if is_reserved(parts):
        raise ToolFailure(
            f"{shown(text)!r} is the server's own: {TRASH} in the root holds what was deleted, and names that "
            f"begin with {TEMPORARY_PREFIX} are files half written. They cannot be listed, read or changed; "
            "`move` takes a file out of the trash, by the path that `delete` gave."
        )


def _is_temporary(name: str) -> bool:
    return _is_unusual(name) and _folded(name).startswith(TEMPORARY_PREFIX)


def _is_unusual(name: str) -> bool:
    """Return whether a name may be reserved; a cheap test, because folding every name of a walk takes long."""
    return name.startswith(".") or not name.isascii()


def _folded(name: str) -> str:
    """Fold a name at least as much as any file system does when it compares names."""
    return visible(name).replace("\u200c", "").replace("\u200d", "").partition(":")[0].rstrip(" .").casefold()


def joined(parts: PathParts) -> str:
    """Return the path as a client writes it: valid UTF-8 even if the names on disk are not."""
    return "/".join(printable_bytes(part) for part in parts) or "."


def printable_bytes(name: str) -> str:
    r"""Return `name` with bytes that are not UTF-8 as `\\xNN`, so that it can be sent as JSON."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """Return `name` on one line, with controls, bidi marks and all other invisible characters as escapes."""
    text = printable_bytes(name)
    is_plain = visible(text) == text  # its selectors and joiners are visible, as in an emoji, and stay
    return "".join(char if char.isprintable() and (is_plain or visible(char)) else escaped(char) for char in text)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Compile a name pattern (`*`, `?`, `[a-z]`), ignoring case.

    `fnmatch` emits atomic groups, so a pattern with many stars stays linear in practice.

    Raises:
        ToolFailure: The pattern is empty or longer than a name can be.
    """
    if not pattern or len(pattern) > MAX_NAME_BYTES:
        raise ToolFailure(f"The pattern must have 1 to {MAX_NAME_BYTES} characters, like '*.md'.")
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE)


def glob_matches(pattern: re.Pattern[str], parts: PathParts, *, whole_path: bool) -> bool:
    """Match the name, or the whole relative path if the pattern was written with a slash."""
    return pattern.match("/".join(parts) if whole_path else parts[-1]) is not None


def _check_encodable(text: str) -> None:
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ToolFailure("The path contains a control character. Use plain file names.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolFailure("The path is not valid Unicode.") from None


def _relative_hint(text: str) -> str:
    relative = text.strip("/")
    return f"write {shown(relative)!r}" if relative else "use '.' for the root folder"
