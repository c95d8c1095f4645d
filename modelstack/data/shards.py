"""Token shards: documents as memory-mapped token ids, read by a training run.

For each shard, a folder holds the tokens (uint16 if the vocabulary allows, else uint32), the offset and the source
of each document, and a JSON record. `index.json` repeats all records and marks the folder as complete; a folder
without it is not opened. `shard_writing` writes such folders.

A document is its tokens, preceded by the begin-of-text token if the tokenizer adds one, and followed by the
end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from modelstack.errors import UserError

INDEX_FILE = "index.json"
ARRAYS = ("tokens", "offsets", "sources")
"""Array files of a shard, beside its record."""
HASHED_BYTES = 1 << 20
COUNTED_TOKENS = 1 << 22
"""Tokens counted at once: `bincount` needs 8 bytes for each."""


class SpecialNames(Protocol):
    """Names of the tokens that begin and end a text."""

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
    """The part of `TextTokenizer` needed here; declared as a protocol because later steps are not imported."""

    @property
    def description(self) -> Mapping[str, Any]:
        """Content of `tokenizer.json`."""
        ...

    @property
    def names(self) -> SpecialNames:
        """Special tokens of the tokenizer."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts; names of special tokens in them are plain text."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Encode text in which names of special tokens become those tokens."""
        ...


class ShardRecord(BaseModel):
    """Content and inputs of one shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer_sha256: str
    text_sha256: str
    tokens_sha256: str
    n_documents: int
    n_tokens: int
    sources: tuple[str, ...]
    """Names of the sources, indexed by the source numbers of the shard's documents."""


class ShardIndex(BaseModel):
    """All shards of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer_sha256: str
    dtype: str
    begin_id: int | None
    end_id: int
    shards: tuple[ShardRecord, ...]


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Return a hash of every property of the tokenizer that affects token ids."""
    names = tokenizer.names
    content = [tokenizer.description, names.begin, names.end, names.adds_begin]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Shards:
    """Opened token shards; documents are numbered across all shards."""

    def __init__(self, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        """Memory-map the shards; if a tokenizer is given, require that it produced them.

        Raises:
            UserError: The folder is incomplete, belongs to another tokenizer, or a file is missing, truncated or
                does not match its record.
        """
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        if tokenizer is not None and tokenizer_sha256(tokenizer) != self.index.tokenizer_sha256:
            raise UserError(f"{self.folder} was made with another tokenizer; write its shards anew with this one")
        self._tokens = [
            _mapped(shard_file(self.folder, i, "tokens"), self.index.dtype, record.n_tokens)
            for i, record in enumerate(self.index.shards)
        ]
        self._offsets = [
            _mapped(shard_file(self.folder, i, "offsets"), "uint64", record.n_documents + 1)
            for i, record in enumerate(self.index.shards)
        ]
        self._first_documents = np.cumsum([0, *(record.n_documents for record in self.index.shards)])
        self.sources: tuple[str, ...] = tuple(
            sorted({name for record in self.index.shards for name in record.sources})
        )
        self.lengths = np.concatenate([np.diff(offsets.astype(np.int64)) for offsets in self._offsets])
        """Tokens of each document, begin and end tokens included."""
        self.source_of = np.concatenate([self._global_sources(i) for i in range(len(self._tokens))])
        """Index into `sources` for each document."""
        for i, offsets in enumerate(self._offsets):
            if offsets[0] != 0 or offsets[-1] != len(self._tokens[i]) or (self.lengths < 1).any():
                raise UserError(
                    f"{shard_file(self.folder, i, 'offsets')} does not fit its tokens; write the shards anew"
                )

    @property
    def fingerprint(self) -> str:
        """Hash of all tokens and sources; identifies the data that a position refers to."""
        return hashlib.sha256(self.index.model_dump_json().encode()).hexdigest()

    @property
    def n_documents(self) -> int:
        """Number of documents in all shards."""
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all shards."""
        return sum(record.n_tokens for record in self.index.shards)

    def tokens(self, document: int, start: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return token ids `start` to `end` of a document as a view of the file; `end=None`: to its last token."""
        shard = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        first = int(self._offsets[shard][document - self._first_documents[shard]])
        n_tokens = int(self.lengths[document])
        return self._tokens[shard][first + start : first + min(n_tokens, n_tokens if end is None else end)]

    def token_counts(self, n_ids: int) -> NDArray[np.int64]:
        """Return the number of occurrences of each of `n_ids` tokens."""
        counts = np.zeros(n_ids, np.int64)
        for tokens in self._tokens:
            for start in range(0, len(tokens), COUNTED_TOKENS):
                counts += np.bincount(tokens[start : start + COUNTED_TOKENS], minlength=n_ids)
        return counts

    def verify(self) -> None:
        """Read all tokens and compare their hashes.

        Raises:
            UserError: The tokens of a shard differ from those written.
        """
        for i, record in enumerate(self.index.shards):
            if shard_sha256(self.folder, i) != record.tokens_sha256:
                raise UserError(f"shard {i} of {self.folder} has been changed; write the shards anew")

    def _global_sources(self, shard: int) -> NDArray[np.int64]:
        record = self.index.shards[shard]
        path = shard_file(self.folder, shard, "sources")
        numbers = _mapped(path, "uint16", record.n_documents)
        if numbers.max() >= len(record.sources):
            raise UserError(f"{path} names source {numbers.max()} of {len(record.sources)}; write the shards anew")
        return np.array([self.sources.index(name) for name in record.sources], np.int64)[numbers]


def shard_file(folder: Path, number: int, kind: str) -> Path:
    """Return the path of an array or record of a shard."""
    return folder / f"{number:05}.{kind}.{'json' if kind == 'record' else 'npy'}"


def shard_sha256(folder: Path, number: int) -> str:
    """Return a hash over the array files of a shard."""
    digest = hashlib.sha256()
    for kind in ARRAYS:
        with shard_file(folder, number, kind).open("rb") as file:
            while data := file.read(HASHED_BYTES):
                digest.update(data)
    return digest.hexdigest()


def _read_index(folder: Path) -> ShardIndex:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the folder has no token shards or writing them was interrupted; write them again"
        )
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is not an index of token shards: {error}") from error
    if index.dtype not in ("uint16", "uint32") or not index.shards:
        raise UserError(f"{path} has {len(index.shards)} shards of {index.dtype!r}; uint16 or uint32 is expected")
    return index


def _mapped(path: Path, dtype: str, length: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; write the shards anew") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is truncated or not an array: {error}; write the shards anew") from error
    if array.dtype != dtype or array.shape != (length,):
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; {dtype} of ({length},) is recorded; "
            f"write the shards anew"
        )
    return array
