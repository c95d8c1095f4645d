"""Reader of JSON lines (plain, gzip or zstd), one document per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.fields import Fields, document_of
from modelstack.data.reading.input_files import Input, name_in
from modelstack.data.reading.limits import Limits
from modelstack.data.reading.unpacking import pieces


class JsonlInput(Input, Fields, frozen=True):
    """Files with one JSON object per line; fields not named here become metadata."""

    kind: Literal["jsonl"] = "jsonl"


def read_jsonl(path: Path, config: JsonlInput) -> Iterator[Document | Broken]:
    """Yield the documents of a JSON lines file.

    Raises:
        UserError: The file does not exist.
    """
    name = name_in(config.path, path)
    for number, line in lines_of(path, config.limits):
        place = f"{name}:{number}"
        if isinstance(line, str):
            yield Broken(place, line)
        elif line.strip():
            yield _document(line, place, config)


def lines_of(path: Path, limits: Limits) -> Iterator[tuple[int, bytes | str]]:
    """Yield line numbers with lines without line ends; for an unreadable line, the reason (text instead of bytes).

    Raises:
        UserError: The file does not exist.
    """
    number, is_passing = 1, False
    held: list[bytes] = []
    n_held = 0
    for piece in pieces(path, limits):
        if piece.fault:
            # The interrupted line is lost. The following data starts a line, or will be rejected as JSON.
            yield number, piece.fault
            number, held, n_held, is_passing = number + 1, [], 0, False
            continue
        *whole, rest = piece.data.split(b"\n")
        for part in whole:
            line = b"".join((*held, part))
            if not is_passing:
                yield number, line if len(line) <= limits.max_line_bytes else "line_too_long"
            number, held, n_held, is_passing = number + 1, [], 0, False
        if not is_passing:
            held.append(rest)
            n_held += len(rest)
        if n_held > limits.max_line_bytes:
            yield number, "line_too_long"
            held, n_held, is_passing = [], 0, True
    if n_held:
        yield number, b"".join(held)


def _document(line: bytes, place: str, config: JsonlInput) -> Document | Broken:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Broken(place, "invalid_utf8", str(error))
    try:
        # NaN and infinity are not JSON and could not be written again.
        record: Any = json.loads(text, parse_constant=lambda _: None)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(record, ensure_ascii=False).encode()  # A lone surrogate is not valid text.
    except UnicodeEncodeError as error:
        return Broken(place, "invalid_utf8", str(error)[:200])
    except (ValueError, RecursionError) as error:
        return Broken(place, "not_json", str(error)[:200])
    if not isinstance(record, dict):
        return Broken(place, "not_object", type(record).__name__)
    return document_of(record, place, config, config)
