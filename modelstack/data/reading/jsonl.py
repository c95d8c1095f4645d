"""JSON lines, plain, gzip or zstd: a document a line."""

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
    """Files of JSON objects, one a line; fields that are not named here go to the metadata."""

    kind: Literal["jsonl"] = "jsonl"


def read_jsonl(path: Path, config: JsonlInput) -> Iterator[Document | Broken]:
    """Return the documents of a file of JSON lines.

    Raises:
        UserError: There is no such file.
    """
    name = name_in(config.path, path)
    for number, line in lines_of(path, config.limits):
        place = f"{name}:{number}"
        if isinstance(line, str):
            yield Broken(place, line)
        elif line.strip():
            yield _document(line, place, config)


def lines_of(path: Path, limits: Limits) -> Iterator[tuple[int, bytes | str]]:
    """Return lines by number, without their ends; of a line that cannot be had, the reason (text, not bytes).

    Raises:
        UserError: There is no such file.
    """
    number, is_passing = 1, False
    held: list[bytes] = []
    n_held = 0
    for piece in pieces(path, limits):
        if piece.fault:
            # The line that it cut is lost with it; what comes next begins a line, or is found to be none.
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
        # NaN and infinities are no JSON, and could not be written again.
        record: Any = json.loads(text, parse_constant=lambda _: None)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(record, ensure_ascii=False).encode()  # Half a surrogate pair is no text.
    except UnicodeEncodeError as error:
        return Broken(place, "invalid_utf8", str(error)[:200])
    except (ValueError, RecursionError) as error:
        return Broken(place, "not_json", str(error)[:200])
    if not isinstance(record, dict):
        return Broken(place, "not_object", type(record).__name__)
    return document_of(record, place, config, config)
