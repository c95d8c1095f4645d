"""Documents in files between the phases: JSONL, compressed, the fields of the corpora first."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelstack.data.documents import Document
from modelstack.errors import UserError
from modelstack.zstd_files import open_unpacked

LEVEL = 3
"""zstd's own choice: a third of the size at the speed of a disk."""


class Writer:
    """Writes documents to a file; the bytes depend on them, and on zstd's version, alone."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        import zstandard

        self._raw = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=LEVEL).stream_writer(self._raw, closefd=True)

    def write(self, document: Document, **more: Any) -> None:
        """Add a document, and what else is known of it."""
        record = {
            "text": document.text,
            "source": document.source,
            "license": document.license,
            "url": document.url,
            "language": document.metadata.get("language"),
            "id": document.id,
            "metadata": document.metadata,
            **more,
        }
        # A lone surrogate has no UTF-8 form; as an escape it has one, and is read back as it was.
        line = json.dumps(record, ensure_ascii=False)
        try:
            data = line.encode()
        except UnicodeEncodeError:
            data = json.dumps(record).encode()
        self._stream.write(data + b"\n")

    def close(self) -> None:
        """Write what is left."""
        self._stream.close()


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of a file that `Writer` wrote; whether it is the one that was written, its hash tells.

    Raises:
        UserError: it is missing, cut short, or holds something else.
    """
    return (document for document, _ in read_records(path))


def read_records(path: Path) -> Iterator[tuple[Document, dict[str, Any]]]:
    """Read documents with all that is written of them, as `read_documents`."""
    try:
        with io.TextIOWrapper(open_unpacked(path), encoding="utf-8", newline="\n") as file:
            for line in file:
                record = json.loads(line)
                document = Document(
                    id=record["id"],
                    text=record["text"],
                    source=record["source"],
                    license=record["license"],
                    url=record["url"],
                    metadata=record["metadata"],
                )
                yield document, record
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is missing or no file of documents: {error}") from error
