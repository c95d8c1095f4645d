"""Documents as token ids, memory-mapped: what a training run reads.

A folder holds for each shard its tokens (uint16 where the vocabulary allows, else uint32), the offset of each
document, and the source of each, and a JSON that records them; `index.json` repeats all records and says that the
folder is whole: nothing is opened without it. `shard_writing` makes such a folder.

A document is its tokens between the begin-of-text token, where the tokenizer puts one, and the end-of-text token.
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
"""The files of a shard, beside its record."""
HASHED_BYTES = 1 << 20
COUNTED_TOKENS = 1 << 22
"""Counted at once: `bincount` makes 8 bytes of each."""


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
        """Tokens of each document, borders included."""
        self.source_of = np.concatenate([self._global_sources(i) for i in range(len(self._tokens))])
        """Number of each document's source in `sources`."""
        for i, offsets in enumerate(self._offsets):
            if offsets[0] != 0 or offsets[-1] != len(self._tokens[i]) or (self.lengths < 1).any():
                raise UserError(
                    f"{shard_file(self.folder, i, 'offsets')} does not fit its tokens; write the shards anew"
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

    def token_counts(self, n_ids: int) -> NDArray[np.int64]:
        """Return how often each of `n_ids` tokens occurs."""
        counts = np.zeros(n_ids, np.int64)
        for tokens in self._tokens:
            for start in range(0, len(tokens), COUNTED_TOKENS):
                counts += np.bincount(tokens[start : start + COUNTED_TOKENS], minlength=n_ids)
        return counts

    def verify(self) -> None:
        """Read all tokens and compare their hashes.

        Raises:
            UserError: A shard's tokens are not those that were written.
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
    """Return the path of a shard's array or record."""
    return folder / f"{number:05}.{kind}.{'json' if kind == 'record' else 'npy'}"


def shard_sha256(folder: Path, number: int) -> str:
    """Return a hash of a shard's arrays, as files."""
    digest = hashlib.sha256()
    for kind in ARRAYS:
        with shard_file(folder, number, kind).open("rb") as file:
            while data := file.read(HASHED_BYTES):
                digest.update(data)
    return digest.hexdigest()


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
