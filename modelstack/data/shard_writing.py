"""Tokenisation of documents into token shards, with resume.

A shard holds consecutive documents with about `SHARD_BYTES` of text. Its record stores hashes of the tokenizer, of
the texts and of the written arrays. A shard with matching hashes is kept; a missing, damaged or outdated one is
written again. The index is written last.
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
"""Bytes of text in a shard: about 8 million tokens, and at most a minute of tokenising to repeat after a stop."""

BATCH_BYTES = 1 << 20
"""Bytes of text encoded at once: enough work for all cores and frequent progress."""


class SourcedText(NamedTuple):
    """A document with its source."""

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
    """Tokenise documents into a folder; shards whose content is unchanged are kept.

    `on_documents` is called with the number of documents just completed, for progress display.

    Raises:
        UserError: There are no documents, or the tokenizer has no end-of-text token.
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
            # Readers must not see a mixture of old and new shards.
            (folder / INDEX_FILE).unlink(missing_ok=True)
            tokens: list[list[int]] = []
            for batch in _chunks(chunk, BATCH_BYTES):
                ids = tokenizer.encode_batch([document.text for document in batch])
                tokens += [[*begin, *document, end_id] for document in ids]
                on_documents(len(batch))
            record = _write_shard(folder, number, chunk, tokens, dtype, sha256, text_sha256)
        records.append(record)
    if not records:
        raise UserError(f"no documents to write to {folder}; name a file or a source that has documents")
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
        raise UserError(f"{name!r} is {len(ids)} tokens, not one special token; set one in tokenizer_config.json")
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
    # The old record must not validate files that are being replaced.
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
    """Return the record of a shard if its files still match it, else None."""
    path = shard_file(folder, number, "record")
    if not path.is_file() or not all(shard_file(folder, number, kind).is_file() for kind in ARRAYS):
        return None
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        # A record of another version or a truncated one: the shard is written again.
        return None
    return record if shard_sha256(folder, number) == record.tokens_sha256 else None


def _remove_shards_from(folder: Path, number: int) -> None:
    """Remove shards from `number` on, left over from a larger set of documents."""
    while (record := shard_file(folder, number, "record")).is_file():
        record.unlink()
        for kind in ARRAYS:
            shard_file(folder, number, kind).unlink(missing_ok=True)
        number += 1


def _write_json(path: Path, model: BaseModel) -> None:
    with replacing(path) as temporary:
        temporary.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")
