"""Licence of a repository from its licence files and package metadata, for files without a statement.

`python -m modelstack.data.code.repository FOLDER ...` prints a JSON object that maps repositories to SPDX
expressions, which the step `license` reads (`repository_licenses`).
"""

from __future__ import annotations

import email
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelstack.data.code.expressions import Node, category_of, ids_of, joined, parse, written
from modelstack.data.code.license_statements import license_stated_in
from modelstack.files import parse_toml

_LICENSE_FILE = re.compile(r"(?:UN)?LICEN[CS]E|COPYING|COPYRIGHT", re.IGNORECASE)
_NOT_THE_LICENSE = re.compile(
    r"third.?party|vendor|external|bundled|notice|contributors?|agreement", re.IGNORECASE
)
_METADATA = ("pyproject.toml", "package.json", "Cargo.toml", "composer.json", "METADATA", "PKG-INFO")
_SKIPPED_FOLDERS = frozenset((".git", ".venv", "venv", "node_modules", "__pycache__"))
MAX_BYTES = 400_000


def is_license_file(name: str) -> bool:
    """Whether the name of a top-level file is that of a licence file."""
    return bool(_LICENSE_FILE.match(name)) and not _NOT_THE_LICENSE.search(name)


def license_of_files(files: Mapping[str, str]) -> Node | None:
    """Return the licence of a repository from the texts of its top-level files.

    A licence declared in package metadata takes precedence if the table knows it. Several licence files are
    alternatives (`LICENSE-MIT`, `LICENSE-APACHE`); several texts in one file all apply.
    """
    declared = [_declared(name, files[name]) for name in _METADATA if name in files]
    for node in declared:
        if node and all(category_of(license_id) != "unknown" for license_id in ids_of(node)):
            return node
    texts = [license_stated_in(text) for name, text in sorted(files.items()) if is_license_file(name)]
    return joined("OR", [node for node in texts if node])


def license_of_folder(folder: Path) -> Node | None:
    """Return the licence of a repository stored in a folder.

    Raises:
        OSError: The folder cannot be read.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        wanted = path.name in _METADATA or is_license_file(path.name)
        if wanted and path.is_file() and path.stat().st_size <= MAX_BYTES:
            files[path.name] = path.read_text(encoding="utf-8", errors="replace")
    return license_of_files(files)


def licenses_of_folders(folders: Iterable[Path]) -> dict[str, str]:
    """Return the licence of each repository, and of each folder in it with its own licence file.

    Keys are the name of the repository's folder, and `name/path/of/folder`. A licence applies to everything below
    it, as in The Stack v2 (arXiv 2402.19173, section 2.1).
    """
    found: dict[str, str] = {}
    for repository in folders:
        for folder, names, files in os.walk(repository):
            names[:] = sorted(name for name in names if name not in _SKIPPED_FOLDERS)
            path = Path(folder)
            is_top = path == repository
            if not is_top and not any(map(is_license_file, files)):
                continue
            if node := license_of_folder(path):
                key = repository.name if is_top else f"{repository.name}/{path.relative_to(repository).as_posix()}"
                found[key] = written(node)
    return found


def _declared(name: str, text: str) -> Node | None:
    try:
        if name in ("METADATA", "PKG-INFO"):
            fields = email.message_from_string(text)
            value = fields.get("License-Expression") or fields.get("License")
        elif name.endswith(".toml"):
            content = parse_toml(text, name)
            value = content.get("project" if name == "pyproject.toml" else "package", {}).get("license")
        else:
            value = json.loads(text).get("license")
    except (ValueError, AttributeError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("text") or value.get("type")
    return parse(value) if isinstance(value, str) and len(value) <= 200 else None


def main() -> None:
    """Print the licences of the folders given on the command line."""
    print(json.dumps(licenses_of_folders(map(Path, sys.argv[1:])), indent=1))


if __name__ == "__main__":
    main()
