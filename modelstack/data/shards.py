"""Documents as token ids, memory-mapped: what a training run reads.

A folder holds for each shard its tokens (uint16 where the vocabulary allows, else uint32), the offset of each
document, and the source of each; `index.json` says what they were made of. A shard is a run of documents of about
`SHARD_BYTES` of text. It is recorded in a JSON of its own, with hashes of the tokenizer, of the texts and of
the tokens; so a run that was stopped goes on at the first shard that is missing or made of something else, and
`index.json` appears last. Readers open nothing without it.

A document is its tokens between the begin-of-text token, where the tokenizer puts one, and the end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing

INDEX_FILE = "index.json"
SHARD_BYTES = 32 << 20
"""Text of a shard: some 8 million tokens, a minute of tokenising that a stop can lose."""
HASHED_BYTES = 1 << 20


class SpecialNames(Protocol):
    """Which tokens begin and end a text."""

    @property
    def begin(self) -> str | None:
        """Name of the begin-of-text token."""
        ...

    @property
    def end(self) -> str | None:
        """Name of the end-of-text token."""
        ...

    @property
    def adds_begin(self) -> bool:
        """Whether every text begins with the begin token."""
        ...


class Tokenizer(Protocol):
    """What is needed of a `TextTokenizer`; the rooms of later steps are not imported here."""

    @property
    def description(self) -> Mapping[str, Any]:
        """The content of its `tokenizer.json`."""
        ...

    @property
    def names(self) -> SpecialNames:
        """Its special tokens."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts, in which no special token can occur."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Encode text in which the names of special tokens stand for these."""
        ...


class SourcedText(NamedTuple):
    """A document and where it is from."""

    text: str
    source: str


class ShardRecord(BaseModel):
    """What one shard holds and was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer_sha256: str
    text_sha256: str
    tokens_sha256: str
    n_documents: int
    n_tokens: int
    sources: tuple[str, ...]
    """Names of the sources, in the order of the numbers that the shard's documents carry."""


class ShardIndex(BaseModel):
    """All shards of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer_sha256: str
    dtype: str
    begin_id: int | None
    end_id: int
    shards: tuple[ShardRecord, ...]


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Return a hash of everything that the ids depend on."""
    names = tokenizer.names
    content = [tokenizer.description, names.begin, names.end, names.adds_begin]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_shards(
    documents: Iterable[SourcedText],
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    on_documents: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Tokenise documents into a folder; shards of it that hold the same already are kept.

    `on_documents` is told of each number of documents that is done, for a progress bar.

    Raises:
        UserError: There is no document, or the tokenizer has no end-of-text token.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Readers must not mix old and new shards while these are written.
    (folder / INDEX_FILE).unlink(missing_ok=True)
    begin_id, end_id = _border_ids(tokenizer)
    dtype = "uint16" if _n_ids(tokenizer.description) <= 1 << 16 else "uint32"
    sha256 = tokenizer_sha256(tokenizer)
    records: list[ShardRecord] = []
    for chunk in _chunks(documents, shard_bytes):
        number = len(records)
        text_sha256 = _text_sha256(chunk)
        record = _intact_record(folder, number)
        if record is None or (record.tokenizer_sha256, record.text_sha256) != (sha256, text_sha256):
            ids = tokenizer.encode_batch([document.text for document in chunk])
            borders = ([] if begin_id is None else [begin_id]), [end_id]
            tokens = [borders[0] + document + borders[1] for document in ids]
            record = _write_shard(folder, number, chunk, tokens, dtype, sha256, text_sha256)
        records.append(record)
        if on_documents is not None:
            on_documents(len(chunk))
    if not records:
        raise UserError(f"no document to write to {folder}; name a file or a source that holds some")
    _remove_shards_from(folder, len(records))
    index = ShardIndex(
        tokenizer_sha256=sha256, dtype=dtype, begin_id=begin_id, end_id=end_id, shards=tuple(records)
    )
    _write_json(folder / INDEX_FILE, index)
    return index


class Shards:
    """Token shards, opened: documents by their number over all shards."""

    def __init__(self, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        """Map the shards; with a tokenizer, only if they were made with it.

        Raises:
            UserError: The folder is unfinished, was made with another tokenizer, or a file is missing, truncated,
                or does not fit what is recorded of it.
        """
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        if tokenizer is not None and tokenizer_sha256(tokenizer) != self.index.tokenizer_sha256:
            raise UserError(f"{self.folder} was made with another tokenizer; write its shards anew with this one")
        self._tokens = [
            _mapped(_file(self.folder, i, "tokens"), self.index.dtype, record.n_tokens)
            for i, record in enumerate(self.index.shards)
        ]
        self._offsets = [
            _mapped(_file(self.folder, i, "offsets"), "uint64", record.n_documents + 1)
            for i, record in enumerate(self.index.shards)
        ]
        self._first_documents = np.cumsum([0, *(record.n_documents for record in self.index.shards)])
        self.sources: tuple[str, ...] = tuple(
            sorted({name for record in self.index.shards for name in record.sources})
        )
        self.lengths = np.concatenate([np.diff(offsets.astype(np.int64)) for offsets in self._offsets])
        """Tokens of each document, borders included."""
        self.source_of = np.concatenate([self._global_sources(i) for i in range(len(self._tokens))])
        """Number of each document's source in `sources`."""
        for i, offsets in enumerate(self._offsets):
            if offsets[0] != 0 or offsets[-1] != len(self._tokens[i]) or (self.lengths < 1).any():
                raise UserError(
                    f"{_file(self.folder, i, 'offsets')} does not fit its tokens; write the shards anew"
                )

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and of the sources: what a position in the data refers to."""
        return hashlib.sha256(self.index.model_dump_json().encode()).hexdigest()

    @property
    def n_documents(self) -> int:
        """Documents of all shards."""
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards."""
        return sum(record.n_tokens for record in self.index.shards)

    def tokens(self, document: int, start: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return ids of a document, a view of the file: those from `start` up to `end`, or to its last."""
        shard = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        first = int(self._offsets[shard][document - self._first_documents[shard]])
        n_tokens = int(self.lengths[document])
        return self._tokens[shard][first + start : first + min(n_tokens, n_tokens if end is None else end)]

    def verify(self) -> None:
        """Read all tokens and compare their hashes.

        Raises:
            UserError: A shard's tokens are not those that were written.
        """
        for i, record in enumerate(self.index.shards):
            if _shard_sha256(self.folder, i) != record.tokens_sha256:
                raise UserError(f"shard {i} of {self.folder} has been changed; write the shards anew")

    def _global_sources(self, shard: int) -> NDArray[np.int64]:
        record = self.index.shards[shard]
        path = _file(self.folder, shard, "sources")
        numbers = _mapped(path, "uint16", record.n_documents)
        if numbers.max() >= len(record.sources):
            raise UserError(f"{path} names source {numbers.max()} of {len(record.sources)}; write the shards anew")
        return np.array([self.sources.index(name) for name in record.sources], np.int64)[numbers]


def _border_ids(tokenizer: Tokenizer) -> tuple[int | None, int]:
    names = tokenizer.names
    if names.end is None:
        raise UserError("the tokenizer names no end-of-text token; set eos_token in its tokenizer_config.json")
    return (_special_id(tokenizer, names.begin) if names.adds_begin and names.begin else None), _special_id(
        tokenizer, names.end
    )


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
    _file(folder, number, "record").unlink(missing_ok=True)
    sources = tuple(dict.fromkeys(document.source for document in chunk))
    numbers = {name: i for i, name in enumerate(sources)}
    lengths = [len(ids) for ids in tokens]
    arrays = {
        "tokens": np.fromiter((token for ids in tokens for token in ids), dtype, sum(lengths)),
        "offsets": np.cumsum([0, *lengths], dtype=np.uint64),
        "sources": np.array([numbers[document.source] for document in chunk], np.uint16),
    }
    for kind, array in arrays.items():
        with replacing(_file(folder, number, kind)) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    record = ShardRecord(
        tokenizer_sha256=sha256,
        text_sha256=text_sha256,
        tokens_sha256=_shard_sha256(folder, number),
        n_documents=len(chunk),
        n_tokens=sum(lengths),
        sources=sources,
    )
    _write_json(_file(folder, number, "record"), record)
    return record


def _file(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:05}.{kind}.{'json' if kind == 'record' else 'npy'}"


def _intact_record(folder: Path, number: int) -> ShardRecord | None:
    """Return what is recorded of a shard, if its files still are what was written."""
    path = _file(folder, number, "record")
    if not path.is_file() or not all(_file(folder, number, kind).is_file() for kind in _ARRAYS):
        return None
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        # Of another version, or cut off: either way the shard is made anew.
        return None
    return record if _shard_sha256(folder, number) == record.tokens_sha256 else None


_ARRAYS = ("tokens", "offsets", "sources")


def _shard_sha256(folder: Path, number: int) -> str:
    digest = hashlib.sha256()
    for kind in _ARRAYS:
        with _file(folder, number, kind).open("rb") as file:
            while data := file.read(HASHED_BYTES):
                digest.update(data)
    return digest.hexdigest()


def _remove_shards_from(folder: Path, number: int) -> None:
    """Remove shards past the last one, of more documents than there are now."""
    while (record := _file(folder, number, "record")).is_file():
        record.unlink()
        for kind in _ARRAYS:
            _file(folder, number, kind).unlink(missing_ok=True)
        number += 1


def _write_json(path: Path, model: BaseModel) -> None:
    with replacing(path) as temporary:
        temporary.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read_index(folder: Path) -> ShardIndex:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{path} is not there: no token shards, or their writing was stopped; write them again")
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is no index of token shards: {error}") from error
    if index.dtype not in ("uint16", "uint32") or not index.shards:
        raise UserError(f"{path} has {len(index.shards)} shards of {index.dtype!r}; uint16 or uint32 is expected")
    return index


def _mapped(path: Path, dtype: str, length: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; write the shards anew") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is truncated or no array: {error}; write the shards anew") from error
    if array.dtype != dtype or array.shape != (length,):
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; {dtype} of ({length},) is recorded; "
            f"write the shards anew"
        )
    return array
