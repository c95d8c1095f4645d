"""Reads benchmark files: JSON lines, plain or gzip; errors name file, line and fix."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentkit.errors import UserError

MAX_FILE_BYTES = 2 << 30
"""Maximum unpacked size, which stops a gzip bomb. The largest benchmark file in use is a thousandth of it."""


def file_option(suite: str, options: Mapping[str, str], key: str, how_to_get: str) -> Path:
    """Return the file or folder that an option names.

    Raises:
        UserError: the option is missing, or the path does not exist; `how_to_get` names the source of the data.
    """
    value = options.get(key)
    if not value:
        raise UserError(f"suite {suite!r} needs its data: --option {key}=PATH. {how_to_get}")
    path = Path(value).expanduser()
    if not path.exists():
        raise UserError(f"suite {suite!r}: {key}={value!r} does not exist. {how_to_get}")
    return path


def whole_number(suite: str, options: Mapping[str, str], key: str, default: int, *, low: int, high: int) -> int:
    """Return an integer option within bounds.

    Raises:
        UserError: the value is not an integer from `low` to `high`.
    """
    text = options.get(key, str(default))
    # `isdecimal` and `int` also accept digits of other scripts, which is fine here.
    if not text.removeprefix("-").isdecimal() or not low <= int(text) <= high:
        raise UserError(f"suite {suite!r}: {key}={text!r} must be a whole number from {low} to {high}.")
    return int(text)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file (`.gz` too), or of a `.json` file that holds a list of them.

    Raises:
        UserError: the file is missing, too large, or not made of JSON objects; the message names the line.
    """
    text = _read_text(path)
    if path.suffix == ".json" and text.lstrip().startswith("["):
        values = [(1, value) for value in _parse(text, path, 1)]
    else:
        # Not splitlines(), because U+2028 and similar characters may occur inside a JSON string.
        lines = enumerate(text.split("\n"), start=1)
        values = [(number, _parse(line, path, number)) for number, line in lines if line.strip()]
    for number, value in values:
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}.")
    if not values:
        raise UserError(f"{path} holds no records.")
    return [value for _, value in values]


def field(record: Mapping[str, Any], key: str, kind: type, path: Path, number: int) -> Any:
    """Return a field of a record.

    Raises:
        UserError: the field is missing or has another type.
    """
    value = record.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{path}, record {number}: {key!r} must be {kind.__name__}, not {value!r:.80}.")
    return value


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no file at {path}.")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{path} holds more than {MAX_FILE_BYTES >> 20} MiB; that is not a benchmark file.")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); fetch it again.") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _parse(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not JSON ({error}).") from error
