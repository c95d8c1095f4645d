"""Readers by kind of input, and the shards that a run distributes to its processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.folders import CodeInput, HtmlInput, read_code, read_html
from modelstack.data.reading.input_files import files_below, files_of
from modelstack.data.reading.jsonl import JsonlInput, read_jsonl
from modelstack.data.reading.parquet import ParquetInput, read_parquet
from modelstack.data.reading.warc import WarcInput, WetInput, read_warc, read_wet
from modelstack.errors import UserError

InputConfig = Annotated[
    WarcInput | WetInput | HtmlInput | JsonlInput | ParquetInput | CodeInput, Field(discriminator="kind")
]
_READERS: dict[str, Callable[[Path, Any], Iterator[Document | Broken]]] = {
    "warc": read_warc,
    "wet": read_wet,
    "html": read_html,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "code": read_code,
}
_SUFFIXES = {
    "warc": (".warc", ".warc.gz", ".warc.zst"),
    "wet": (".wet", ".wet.gz", ".warc.wet.gz", ".wet.zst"),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".ndjson", ".ndjson.gz"),
    "parquet": (".parquet",),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: files that are read one after the other."""

    name: str
    """Name of the shard: unique within the input, and identical for the same input."""
    files: tuple[Path, ...]


def shards_of(config: InputConfig) -> list[Shard]:
    """Return the shards of an input in order: one file each, or `files_in_shard` small files of a folder.

    Raises:
        UserError: The input has no files.
    """
    if not isinstance(config, HtmlInput | CodeInput):
        return [Shard(file.as_posix(), (file,)) for file in files_of(config.path, _SUFFIXES[config.kind])]
    skipped = config.skipped_folders if isinstance(config, CodeInput) else ()
    if config.path.is_dir():
        files = files_below(config.path, skipped)
        files = [file for file in files if file.name.lower().endswith(config.suffixes or "")]
        if not files:
            raise UserError(f"input {config.path}: no file in it can be read; check path and suffixes")
    else:
        files = files_of(config.path, config.suffixes)
    n_files = config.files_in_shard
    return [
        Shard(f"{config.path.as_posix()}[{i}]", tuple(files[i : i + n_files]))
        for i in range(0, len(files), n_files)
    ]


def open_input(config: InputConfig) -> Iterator[Document | Broken]:
    """Yield the documents of an input; an unreadable record is Broken, and reading continues.

    Raises:
        UserError: The input has no files, or its kind needs a package that is not installed.
    """
    for shard in shards_of(config):
        yield from read_shard(config, shard)


def read_shard(config: InputConfig, shard: Shard) -> Iterator[Document | Broken]:
    """Yield the documents of a shard.

    Raises:
        UserError: A file no longer exists, or the kind needs a package that is not installed.
    """
    for file in shard.files:
        yield from _READERS[config.kind](file, config)
