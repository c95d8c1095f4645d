"""Documents into token shards: tokenised once, a stopped run goes on where it was.

A shard is a run of documents of about `SHARD_BYTES` of text, and is recorded with hashes of the tokenizer, of the
texts and of what was written. So a shard that holds the same already is kept, one that is missing, damaged or made
of something else is made, and the index appears last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from modelstack.data.shards import (
    ARRAYS,
    INDEX_FILE,
    ShardIndex,
    ShardRecord,
    Tokenizer,
    shard_file,
    shard_sha256,
    tokenizer_sha256,
)
from modelstack.errors import UserError
from modelstack.files import replacing

SHARD_BYTES = 32 << 20
"""Text of a shard: some 8 million tokens, a minute of tokenising that a stop can lose."""

BATCH_BYTES = 1 << 20
"""Text that is encoded at once: enough for all cores, and a progress bar that moves."""


class SourcedText(NamedTuple):
    """A document and where it is from."""

    text: str
    source: str


def write_shards(
    documents: Iterable[SourcedText],
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    on_documents: Callable[[int], object] = lambda n: None,
) -> ShardIndex:
    """Tokenise documents into a folder; shards of it that hold the same already are kept.

    `on_documents` is told of each number of documents that is done, for a progress bar.

    Raises:
        UserError: There is no document, or the tokenizer has no end-of-text token.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begin_id, end_id = _border_ids(tokenizer)
    dtype = "uint16" if _n_ids(tokenizer.description) <= 1 << 16 else "uint32"
    begin = [] if begin_id is None else [begin_id]
    sha256 = tokenizer_sha256(tokenizer)
    records: list[ShardRecord] = []
    for chunk in _chunks(documents, shard_bytes):
        number = len(records)
        text_sha256 = _text_sha256(chunk)
        record = _intact_record(folder, number)
        if record is not None and (record.tokenizer_sha256, record.text_sha256) == (sha256, text_sha256):
            on_documents(len(chunk))
        else:
            # Readers must not mix old and new shards while these are written.
            (folder / INDEX_FILE).unlink(missing_ok=True)
            tokens: list[list[int]] = []
            for batch in _chunks(chunk, BATCH_BYTES):
                ids = tokenizer.encode_batch([document.text for document in batch])
                tokens += [[*begin, *document, end_id] for document in ids]
                on_documents(len(batch))
            record = _write_shard(folder, number, chunk, tokens, dtype, sha256, text_sha256)
        records.append(record)
    if not records:
        raise UserError(f"no document to write to {folder}; name a file or a source that holds some")
    index = ShardIndex(
        tokenizer_sha256=sha256, dtype=dtype, begin_id=begin_id, end_id=end_id, shards=tuple(records)
    )
    _write_json(folder / INDEX_FILE, index)
    _remove_shards_from(folder, len(records))
    return index


def _border_ids(tokenizer: Tokenizer) -> tuple[int | None, int]:
    names = tokenizer.names
    if names.end is None:
        raise UserError("the tokenizer names no end-of-text token; set eos_token in its tokenizer_config.json")
    begin_id = _special_id(tokenizer, names.begin) if names.adds_begin and names.begin else None
    return begin_id, _special_id(tokenizer, names.end)


def _special_id(tokenizer: Tokenizer, name: str) -> int:
    ids = tokenizer.encode_template(name)
    if len(ids) != 1:
        raise UserError(f"{name!r} is {len(ids)} tokens, no special token; name one in tokenizer_config.json")
    return ids[0]


def _n_ids(description: Mapping[str, Any]) -> int:
    added = (token["id"] for token in description["added_tokens"])
    return 1 + max([*description["model"]["vocab"].values(), *added])


def _chunks(documents: Iterable[SourcedText], n_bytes: int) -> Iterator[list[SourcedText]]:
    chunk: list[SourcedText] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text.encode("utf-8", "replace"))
        if size >= n_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _text_sha256(chunk: Iterable[SourcedText]) -> str:
    digest = hashlib.sha256()
    for text, source in chunk:
        for part in (text, source):
            data = part.encode("utf-8", "replace")
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _write_shard(
    folder: Path,
    number: int,
    chunk: Sequence[SourcedText],
    tokens: Sequence[Sequence[int]],
    dtype: str,
    sha256: str,
    text_sha256: str,
) -> ShardRecord:
    # Its old record must not vouch for files that are being replaced.
    shard_file(folder, number, "record").unlink(missing_ok=True)
    sources = tuple(dict.fromkeys(document.source for document in chunk))
    numbers = {name: i for i, name in enumerate(sources)}
    lengths = [len(ids) for ids in tokens]
    arrays = {
        "tokens": np.fromiter((token for ids in tokens for token in ids), dtype, sum(lengths)),
        "offsets": np.cumsum([0, *lengths], dtype=np.uint64),
        "sources": np.array([numbers[document.source] for document in chunk], np.uint16),
    }
    for kind, array in arrays.items():
        with replacing(shard_file(folder, number, kind)) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    record = ShardRecord(
        tokenizer_sha256=sha256,
        text_sha256=text_sha256,
        tokens_sha256=shard_sha256(folder, number),
        n_documents=len(chunk),
        n_tokens=sum(lengths),
        sources=sources,
    )
    _write_json(shard_file(folder, number, "record"), record)
    return record


def _intact_record(folder: Path, number: int) -> ShardRecord | None:
    """Return what is recorded of a shard, if its files still are what was written."""
    path = shard_file(folder, number, "record")
    if not path.is_file() or not all(shard_file(folder, number, kind).is_file() for kind in ARRAYS):
        return None
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        # Of another version, or cut off: either way the shard is made anew.
        return None
    return record if shard_sha256(folder, number) == record.tokens_sha256 else None


def _remove_shards_from(folder: Path, number: int) -> None:
    """Remove shards past the last one, of more documents than there are now."""
    while (record := shard_file(folder, number, "record")).is_file():
        record.unlink()
        for kind in ARRAYS:
            shard_file(folder, number, kind).unlink(missing_ok=True)
        number += 1


def _write_json(path: Path, model: BaseModel) -> None:
    with replacing(path) as temporary:
        temporary.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")
