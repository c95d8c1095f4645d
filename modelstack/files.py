"""Atomic writing of files and folders (temporary name, sync, rename), and reading of JSON and TOML."""

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
from typing import Any, Protocol

from modelstack.errors import UserError

MAX_TOML_LEVELS = 64
"""Maximum nesting of tables and arrays; recipes have three levels. `tomllib` raises RecursionError at some
hundred.
"""
_TOML_KEY = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_TOML_KEY = re.compile(rf"(?<![\\A-Za-z0-9_-])(?:{_TOML_KEY}[ \t]*+\.[ \t]*+){{{MAX_TOML_LEVELS}}}")
"""A dotted key with too many parts, for which `tomllib` needs memory quadratic in their number."""


class Readable(Protocol):
    """A file on disk or in a package."""

    def read_bytes(self) -> bytes:
        """Return the content."""
        ...


def json_lines(file: Readable) -> list[bytes]:
    """Return the lines of a file of JSON lines, which end at line feeds alone.

    Texts hold U+0085 and U+2028 as they are, which end a line for `str.splitlines`.
    """
    return file.read_bytes().splitlines()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on an error it is removed."""
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


def whole_lines(file: Path) -> list[bytes]:
    """Return the lines of a file that is appended to, after cutting off one that a killed process left incomplete.

    A missing file has no lines.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with file.open("r+b") as lines:
            lines.truncate(end)
    return content[:end].splitlines()


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is renamed to `path`, on an error it is removed.

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
    """Sync a temporary folder with its files, and rename it to `path`.

    An existing folder is first renamed and finally removed: a crash between the two renames leaves the old one
    complete as `TEMPORARY.old`.
    """
    for file in temporary.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
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
    """Return the JSON object in an untrusted file.

    Raises:
        UserError: The file is larger than `max_bytes`, not JSON, or not an object.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise UserError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} contains a {type(content).__name__}; a JSON object is expected")
    return content


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a TOML file; `what` names its kind in errors, for example "recipe".

    Raises:
        UserError: The file is not valid TOML, or nested too deeply.
        OSError: The file cannot be read.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), f"{what} {path}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not TOML: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text; `where` names its source in errors.

    Raises:
        TOMLDecodeError: The text is not valid TOML.
        UserError: The text is nested too deeply, or contains a number with too many digits.
    """
    if _LONG_TOML_KEY.search(text):
        raise _too_deep(where)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:  # an integer with more digits than Python accepts
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
    return UserError(f"{where} is nested too deeply: at most {MAX_TOML_LEVELS} levels of tables or arrays")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
