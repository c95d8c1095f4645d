"""Files of a release folder, which is untrusted, and its list of SHA-256 sums in the format of `sha256sum -c`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from modelstack.errors import UserError
from modelstack.files import sha256_of

SUMS, SIGNATURE = "SHA256SUMS", "model.sig"
MAX_FILES, MAX_LEVELS = 10_000, 8
MAX_SUMS_BYTES = 4 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f\\]+)")
_IGNORED_BY_SIGNATURES = frozenset({".git", ".gitignore", ".gitattributes", ".github"})
"""Names that `model-signing` leaves out, so that a signature would not cover them."""


def names_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder, sorted, with forward slashes.

    Raises:
        UserError: An entry is neither a file nor a folder (a link may lead outside), a name has control
            characters, or there are too many files.
    """
    found: list[str] = []
    waiting: list[tuple[str, int]] = [("", 0)]
    n_entries = 0
    while waiting:
        below, level = waiting.pop()
        if level > MAX_LEVELS:
            raise UserError(f"{folder}: folder {below!r} is nested deeper than {MAX_LEVELS} levels; flatten it")
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                n_entries += 1
                if n_entries > MAX_FILES:
                    raise UserError(
                        f"{folder} has more than {MAX_FILES:,} files and folders; a release has some tens"
                    )
                if not _is_plain(entry.name):
                    raise UserError(
                        f"{folder}: name {name!r} has a control character or a backslash, or signatures do not "
                        f"cover it; rename or remove it"
                    )
                if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                    raise UserError(f"{folder}: {name} is neither a file nor a folder; replace it by a copy")
                if entry.is_dir():
                    waiting.append((name, level + 1))
                else:
                    found.append(name)
    return sorted(found)


def _is_plain(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False
    return _LINE.fullmatch("0" * 64 + "  " + name) is not None and name not in _IGNORED_BY_SIGNATURES


def hashes_of(folder: Path, leave_out: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the SHA-256 of each file by name, except those left out; raises as `names_in`."""
    return {name: sha256_of(folder / name) for name in names_in(folder) if name not in leave_out}


def sums_text(hashes: Mapping[str, str]) -> str:
    """Return the list of hashes, which `sha256sum -c` reads."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))


def read_sums(folder: Path) -> dict[str, str]:
    """Return the listed hashes by name.

    Raises:
        UserError: The list is missing, too large, or a line is none of a hash and a plain name.
    """
    file = folder / SUMS
    if file.is_symlink() or not file.is_file():
        raise UserError(f"{folder} is no release: it has no {SUMS}")
    if file.stat().st_size > MAX_SUMS_BYTES:
        raise UserError(f"{file} has {file.stat().st_size:,} bytes; at most {MAX_SUMS_BYTES:,} are read")
    found: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found or not _is_below(match[2]):
            raise UserError(f"{file}, line {number}: {line[:100]!r} is no hash with the plain name of one file")
        found[match[2]] = match[1]
    return found


def _is_below(name: str) -> bool:
    return all(part not in ("", ".", "..") for part in name.split("/"))


def differences(listed: Mapping[str, str], found: Mapping[str, str], where: str) -> list[str]:
    """Return a sentence for each file that was changed, removed or added since `where` was written."""
    gone = [f"{name} is missing, {where} has it" for name in listed if name not in found]
    changed = [
        f"{name} has changed content: SHA-256 {found[name][:12]}, {where} has {sha256[:12]}"
        for name, sha256 in listed.items()
        if name in found and found[name] != sha256
    ]
    added = [f"{name} was added, {where} does not have it" for name in found if name not in listed]
    return sorted([*gone, *changed, *added])
