"""Reader of Parquet files, one document per row, with columns as fields. Only this module imports pyarrow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mcp_servers.distribution import install_command
from modelstack.data.documents import Broken, Document
from modelstack.data.reading.fields import Fields, document_of
from modelstack.data.reading.input_files import Input, name_in
from modelstack.data.reading.limits import MEBIBYTE
from modelstack.data.reading.unpacking import open_file
from modelstack.errors import UserError

ROWS_AT_ONCE = 128
MAX_SCHEMA_BYTES = 64 * MEBIBYTE
"""Maximum bytes of names and statistics in the footer; otherwise a forged length is allocated unchecked."""


class ParquetInput(Input, Fields, frozen=True):
    """Parquet files; columns not named here become metadata."""

    kind: Literal["parquet"] = "parquet"
    max_row_group_bytes: int = Field(default=2048 * MEBIBYTE, ge=1)
    """Maximum declared unpacked bytes of a row group; larger groups are skipped, as a page may be held whole."""


def read_parquet(path: Path, config: ParquetInput) -> Iterator[Document | Broken]:
    """Yield the documents of a Parquet file.

    Raises:
        UserError: The file does not exist, or pyarrow is not installed.
    """
    parquet, arrow_error = _pyarrow()
    name = name_in(config.path, path)
    with open_file(path) as opened:
        try:
            file = parquet.ParquetFile(
                opened,
                thrift_string_size_limit=MAX_SCHEMA_BYTES,
                thrift_container_size_limit=MAX_SCHEMA_BYTES,
            )
        except (arrow_error, OSError) as error:
            yield Broken(name, "not_parquet", str(error)[:200])
            return
        first_row = 0
        for group in range(file.metadata.num_row_groups):
            facts = file.metadata.row_group(group)
            yield from _rows(file, group, first_row, name, config, arrow_error)
            first_row += max(facts.num_rows, 0)


def _rows(
    file: Any, group: int, row: int, name: str, config: ParquetInput, arrow_error: type[Exception]
) -> Iterator[Document | Broken]:
    n_bytes = file.metadata.row_group(group).total_byte_size
    if n_bytes > config.max_row_group_bytes:
        yield Broken(f"{name}:group{group}", "row_group_too_large", f"{n_bytes:,} bytes")
        return
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], use_threads=False):
            for record in batch.to_pylist():
                yield document_of({k: _plain(v) for k, v in record.items()}, f"{name}:{row}", config, config)
                row += 1
    except (arrow_error, OSError, ValueError, OverflowError) as error:
        # ValueError: invalid UTF-8, or a date outside Python's range.
        yield Broken(f"{name}:{row}", "bad_rows", str(error)[:200])


def _plain(value: Any) -> Any:
    """Return a value in JSON form."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _pyarrow() -> tuple[Any, type[Exception]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            f"an input of kind 'parquet' needs pyarrow: {install_command('parquet')}; or turn the files "
            "into JSON lines and use kind 'jsonl'"
        ) from error
    return parquet, pyarrow.ArrowException
