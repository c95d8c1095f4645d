"""Reading of documents with domain and language; held-out split; samples of a given size.

Whether a document is held out depends only on a hash of its text, as a number from 0 to 1, compared with the
held-out share. So training and report agree without a list, in any process and at any time, and duplicates are
always on the same side. A sample consists of the documents with the smallest values of another hash: no part of a
file is preferred, and a larger sample contains the smaller one.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelstack.errors import UserError
from modelstack.zstd_files import open_unpacked

SUFFIXES = (".jsonl", ".jsonl.zst", ".txt", ".md")
MAX_LINE_CHARACTERS = 64 << 20
"""Maximum characters of a JSONL line; a longer line indicates a broken file."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its domain, language and licence."""

    text: str
    domain: str
    """Name of its file without suffixes, or the value of a field of its record."""
    language: str | None = None
    """Field `language` of the record; None without one."""
    license: str | None = None
    """Field `license` of the record; None without one."""


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the named files and the files in named folders, sorted within each folder.

    Raises:
        UserError: A path does not exist, or contains no file of a known kind.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(child for child in path.iterdir() if child.name.endswith(SUFFIXES) and child.is_file())
            # A folder of records may contain a text file about its sources, which is not a document.
            records = [child for child in found if ".jsonl" in child.name]
            files += records or found
        elif path.is_file() and path.name.endswith(SUFFIXES):
            files.append(path)
        else:
            raise UserError(f"{path} is neither a folder nor a file of kind {', '.join(SUFFIXES)}")
    if not files:
        raise UserError(f"no file of kind {', '.join(SUFFIXES)} in {', '.join(map(str, paths))}")
    return files


def read_documents(path: Path, domain_field: str | None = None) -> Iterator[Document]:
    """Read one file: JSONL with the field `text` in each record, or plain text as one document.

    Args:
        path: The file.
        domain_field: Field of the records that names their domain; None: the file name is the domain.

    Raises:
        UserError: A line is not such a record, or the file cannot be decompressed.
    """
    domain = path.name.split(".")[0]
    with _opened(path) as file:
        if ".jsonl" not in path.name:
            yield Document(file.read(), domain)
            return
        for number, line in enumerate(_lines(file, path), 1):
            try:
                record = json.loads(line)
                text = record["text"]
                language, license = (_text_or_none(record.get(key)) for key in ("language", "license"))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number}: not a JSON object with the field 'text' ({error!r})"
                ) from error
            if not isinstance(text, str):
                raise UserError(f"{path}, line {number}: 'text' is a {type(text).__name__}; it must be a string")
            if domain_field is not None:
                domain = _text_or_none(record.get(domain_field))
                if not domain:
                    raise UserError(
                        f"{path}, line {number}: no text in the field {domain_field!r}, which names its source"
                    )
            yield Document(text, domain, language, license)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def is_held_out(text: str, share: float) -> bool:
    """Whether a text belongs to the held-out share, which is never used for training."""
    return _unit_hash(text, b"held out") < share


def sample_documents(
    files: Iterable[Path], max_bytes: int | None, *, held_out: bool, share: float
) -> list[Document]:
    """Return documents of one side of the split, at most `max_bytes` of text, in equal parts from each file.

    Memory use is the sample and one document, for any size of the files.

    Raises:
        UserError: A file is broken.
    """
    files = list(files)
    chosen: list[Document] = []
    for file in files:
        documents = (d for d in read_documents(file) if is_held_out(d.text, share) == held_out)
        chosen += documents if max_bytes is None else sample_of(documents, max_bytes // len(files))
    return chosen


def sample_of(documents: Iterable[Document], max_bytes: int) -> list[Document]:
    """Return as many documents as fit into `max_bytes`: those with the smallest hashes, sorted by hash."""
    heap: list[tuple[float, int, int, Document]] = []
    size = 0
    for i, document in enumerate(documents):
        n_bytes = len(document.text.encode("utf-8", "replace"))
        heapq.heappush(heap, (-_unit_hash(document.text, b"sample"), i, n_bytes, document))
        size += n_bytes
        while size > max_bytes:
            size -= heapq.heappop(heap)[2]
    return [document for *_, document in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def _unit_hash(text: str, purpose: bytes) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little") / 2**64


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with io.TextIOWrapper(open_unpacked(path), encoding="utf-8", errors="replace") as file:
        yield file


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise UserError(f"{path} has a line of more than {MAX_LINE_CHARACTERS:,} characters")
        if line.strip():
            yield line
