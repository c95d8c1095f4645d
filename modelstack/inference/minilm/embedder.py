"""Vectors of texts by a sentence encoder in a folder: tokenizer, BERT, mean of the states, length 1.

The folder is one of sentence-transformers: `config.json`, `model.safetensors`, `tokenizer.json`. The steps are
those of its modules Transformer, Pooling (mean of all tokens) and Normalize (Reimers and Gurevych,
https://arxiv.org/abs/1908.10084).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.minilm.bert import Bert, BertConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FILES = (CONFIG, WEIGHTS, TOKENIZER)
MAX_FILE_BYTES = {CONFIG: 1 << 20, WEIGHTS: 2 << 30, TOKENIZER: 64 << 20}
"""Sizes beyond which a file of the folder is refused."""
MAX_TOKENS = 256
"""Tokens of a text that are read, as all-MiniLM-L6-v2's `sentence_bert_config.json` says."""
MAX_CHARS_PER_TOKEN = 32
"""A text is cut after this many characters per token, because the tokenizer reads all of it."""
BATCH_TOKENS = 1_024
"""Tokens evaluated together: the states of the feed-forward layer (6 MB) stay in the last-level cache."""
NAME_DIGITS = 12


@runtime_checkable
class TextEmbedder(Protocol):
    """An embedding model."""

    @property
    def name(self) -> str:
        """Identity of the model with a hash of its weights: vectors of two names must not be compared."""
        ...

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector for each text, [N, width]; each has length 1."""
        ...


class SentenceEncoder:
    """A `TextEmbedder` over BERT. Safe to call from threads; one batch is evaluated at a time."""

    def __init__(self, bert: Bert, tokenizer: Tokenizer, name: str, max_tokens: int = MAX_TOKENS) -> None:
        """Use a loaded model; `load_encoder` loads one from a folder."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._bert = bert
        self._tokenizer = tokenizer
        self._name = name
        self._max_chars = max_tokens * MAX_CHARS_PER_TOKEN
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Identity of the model, with a hash of its files."""
        return self._name

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self._bert.config.hidden_size

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector for each text, [N, width]; each has length 1.

        A text beyond the model's window is represented by its beginning. Lone surrogates count as unknown
        characters. A text of white space has the vector of the empty text.

        Raises:
            UserError: `texts` is one string, or holds another type than str.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"embed takes a list of strings, not {type(texts).__name__}: write embed([text]).")
        vectors_ND = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(texts), BATCH_TOKENS):
            part = slice(start, start + BATCH_TOKENS)
            vectors_ND[part] = self._vectors(texts[part])
        return vectors_ND

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.width), np.float32)
        clean = [text[: self._max_chars].encode("utf-8", "replace").decode("utf-8") for text in texts]
        with self._lock:
            ids = [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]
            by_length = sorted(range(len(ids)), key=lambda index: len(ids[index]))
            states_ND = np.empty((len(ids), self.width), np.float32)
            for group in _groups(by_length, [len(each) for each in ids]):
                states_ND[group] = self._bert.mean_states([ids[index] for index in group])
        lengths_N = np.linalg.norm(states_ND, axis=1, keepdims=True)
        return states_ND / np.maximum(lengths_N, np.float32(1e-12))


def load_encoder(
    folder: Path, label: str, max_tokens: int = MAX_TOKENS, *, adapter: Path | None = None
) -> SentenceEncoder:
    """Load a sentence encoder from its folder.

    Args:
        folder: Folder with the three `FILES`.
        label: First part of the encoder's name; the hash of the files follows.
        max_tokens: Tokens of a text that are read.
        adapter: Safetensors file with low-rank updates: `NAME.A` [rank, in] and `NAME.B` [out, rank] are added to
            `NAME.weight` as B A.

    Raises:
        UserError: A file is missing, too large, damaged, or describes another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    data = {name: _read(folder / name) for name in FILES}
    try:
        table = json.loads(data[CONFIG])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(folder / CONFIG)!r} is not JSON: {error}.") from error
    if not isinstance(table, dict):
        raise UserError(f"{str(folder / CONFIG)!r} must be a JSON object, not {type(table).__name__}.")
    config = BertConfig.of(table)
    try:
        tensors = load(data[WEIGHTS])
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{str(folder / WEIGHTS)!r} is not a safetensors file: {error}.") from error
    tokenizer: Any
    try:
        tokenizer = Tokenizer.from_buffer(data[TOKENIZER])
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{str(folder / TOKENIZER)!r} is not a tokenizer's file: {error}.") from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(
            f"{str(folder / TOKENIZER)!r} has {tokenizer.get_vocab_size()} tokens, the weights have "
            f"{config.vocab_size}: the files belong to two models."
        )
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256(data[name]).digest())
    if adapter is not None:
        updates = adapter.read_bytes()
        digest.update(hashlib.sha256(updates).digest())
        tensors = _updated(tensors, load(updates))
    bert = Bert(config, tensors)
    limit = min(max_tokens, config.max_position_embeddings)
    return SentenceEncoder(bert, tokenizer, f"{label}@{digest.hexdigest()[:NAME_DIGITS]}/{limit}", limit)


def _updated(tensors: Mapping[str, Any], updates: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors with the low-rank updates added."""
    found = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    for name in (name.removesuffix(".A") for name in updates if name.endswith(".A")):
        factors = (updates[f"{name}.{factor}"].astype(np.float32) for factor in "BA")
        found[f"{name}.weight"] = found[f"{name}.weight"] + np.matmul(*factors)
    return found


def _groups(by_length: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield texts, in order of their lengths, that are evaluated together."""
    group, n_tokens = list[int](), 0
    for index in by_length:
        if group and n_tokens + lengths[index] > BATCH_TOKENS:
            yield group
            group, n_tokens = [], 0
        group.append(index)
        n_tokens += lengths[index]
    if group:
        yield group


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES[path.name] + 1)
    except OSError as error:
        raise UserError(f"the embedding model's file {str(path)!r} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_FILE_BYTES[path.name]:
        raise UserError(f"{str(path)!r} is larger than {MAX_FILE_BYTES[path.name]} bytes; it is not the model's.")
    return data
