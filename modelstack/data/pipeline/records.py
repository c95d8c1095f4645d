"""Files of documents between phases: compressed JSONL, with the corpus fields first."""

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
"""zstd's default level: a third of the size at the speed of a disk."""


class Writer:
    """Writes documents to a file; the bytes depend only on the documents and the zstd version."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        import zstandard

        self._raw = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=LEVEL).stream_writer(self._raw, closefd=True)

    def write(self, document: Document, **more: Any) -> None:
        """Append a document with additional fields."""
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
        # A lone surrogate has no UTF-8 form, but can be written and read as an escape.
        line = json.dumps(record, ensure_ascii=False)
        try:
            data = line.encode()
        except UnicodeEncodeError:
            data = json.dumps(record).encode()
        self._stream.write(data + b"\n")

    def close(self) -> None:
        """Flush and close the file."""
        self._stream.close()


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of a file written by `Writer`; its integrity is checked by its hash elsewhere.

    Raises:
        UserError: The file is missing, truncated, or has other content.
    """
    return (document for document, _ in read_records(path))


def read_records(path: Path) -> Iterator[tuple[Document, dict[str, Any]]]:
    """Read documents with their complete records; errors as in `read_documents`."""
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
        raise UserError(f"{path} is missing or not a file of documents: {error}") from error
