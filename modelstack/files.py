"""Files that appear whole or not at all: written under a temporary name, synced, renamed; how one is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelstack.errors import UserError

MAX_TOML_LEVELS = 64
"""Tables and arrays within each other; recipes have three. `tomllib` ends in a RecursionError at some hundred."""
_TOML_KEY = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_TOML_KEY = re.compile(rf"(?<![\\A-Za-z0-9_-])(?:{_TOML_KEY}[ \t]*+\.[ \t]*+){{{MAX_TOML_LEVELS}}}")
"""A dotted key of too many parts, for which `tomllib` needs memory that grows with the square of their number."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place, or nothing does on an error."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside `path`; it takes its place with all its files, or nothing does on an error.

    See `put_in_place`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a folder that was written beside its place, with its files, and rename it to `path`.

    A folder that was there is moved aside first and removed last: between the two renames a crash leaves the old
    one as `TEMPORARY.old`, whole.
    """
    for file in temporary.iterdir():
        file.chmod(0o644)
        _sync(file)
    _sync(temporary)
    temporary.chmod(0o755)
    old = temporary.with_name(f"{temporary.name}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _sync(path.parent)
    if old.exists():
        shutil.rmtree(old)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a file that is not trusted.

    Raises:
        UserError: It is larger than `max_bytes`, no JSON, or no object.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise UserError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; a JSON object is expected")
    return content


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a TOML file; `what` names its kind in errors, like "recipe".

    Raises:
        UserError: It is no TOML, or nested too deeply.
        OSError: It cannot be read.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), f"{what} {path}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not TOML: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text; `where` names its source in errors.

    Raises:
        TOMLDecodeError: It is no TOML.
        UserError: It is nested too deeply, or has a number that is too long.
    """
    if _LONG_TOML_KEY.search(text):
        raise _too_deep(where)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise UserError(f"{where}: {error}") from error
    level: list[Any] = [content]
    for _ in range(MAX_TOML_LEVELS):
        level = [item for value in level for item in _items(value)]
        if not level:
            return content
    raise _too_deep(where)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(where: str) -> UserError:
    return UserError(f"{where} is nested too deeply: at most {MAX_TOML_LEVELS} tables or arrays in each other")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
