"""Text of `train_to_loss`: one corpus, one tokenizer, one split, and the same bits per byte for all programs.

The corpus is the one shipped with `modelstack`. A document's hash assigns it to training, to validation (for
choosing a recipe), or to the test set (only for the final figures). The tokenizer, with 4,096 entries, is trained
once on the training documents.

A held-out document is evaluated alone: it begins with the begin-of-text token and is cut every T tokens, so a
piece has no context from the piece before it. Every token except the first has a label, including the end of text.
The result is the bits of all these tokens divided by the text's UTF-8 bytes.

Letters: B pieces, T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.losses import IGNORED
from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.tokenizer.documents import Document, find_files, is_held_out, read_documents
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
TEST_SHARE, HELD_OUT_SHARE = 0.01, 0.02
"""Shares of the documents: the test set, and test and validation together."""
VOCAB_SIZE = 4096
PIECES_AT_ONCE = 32
Logits = Callable[[Tensor], Tensor]
"""Maps token ids [B, T] to causal logits [B, T, V]."""


@dataclass(frozen=True, slots=True)
class LossCorpus:
    """Token shards of each side."""

    sides: Mapping[Side, Shards]
    n_bytes: Mapping[Side, int]
    sha256: str
    """Hash of all texts, in order."""


def side_of(text: str) -> Side:
    """Return the side of a document, determined by its text."""
    if is_held_out(text, TEST_SHARE):
        return "test"
    return "validation" if is_held_out(text, HELD_OUT_SHARE) else "train"


def prepare(folder: Path, corpus: Path | None = None) -> LossCorpus:
    """Train the tokenizer and write the shards; shards that already exist with the same content are kept.

    Args:
        folder: Folder of the shards.
        corpus: Files of documents; None takes the corpus shipped with the package.

    Raises:
        UserError: the corpus cannot be read.
    """
    root = corpus or SHIPPED_CORPUS
    by_side: dict[Side, list[Document]] = {side: [] for side in SIDES}
    digest = hashlib.sha256()
    for file in find_files([root]):
        for document in read_documents(file):
            by_side[side_of(document.text)].append(document)
            digest.update(document.text.encode() + b"\0")
    config = TokenizerConfig(vocab_size=VOCAB_SIZE)
    tokenizer = train_tokenizer((d.text for d in by_side["train"]), config).text_tokenizer()
    for side, documents in by_side.items():
        write_shards((SourcedText(d.text, d.domain) for d in documents), tokenizer, folder / side)
    n_bytes: dict[Side, int] = {
        side: sum(len(d.text.encode()) for d in documents) for side, documents in by_side.items()
    }
    shards: dict[Side, Shards] = {side: Shards(folder / side, tokenizer) for side in SIDES}
    return LossCorpus(shards, n_bytes, digest.hexdigest())


def pieces(shards: Shards, row_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each document's pieces as (ids, labels); the last label is the first token of the next piece."""
    for document, length in enumerate(shards.lengths):
        for start in range(0, int(length) - 1, row_tokens):
            tokens = torch.from_numpy(shards.tokens(document, start, start + row_tokens + 1).astype("int64"))
            yield tokens[:-1], tokens[1:]


def bits_per_byte(logits: Logits, corpus: LossCorpus, side: Side, row_tokens: int) -> float:
    """Return the bits of one side's tokens divided by its bytes.

    Pieces of similar length share a batch and are right-padded; a causal model does not attend to that padding.
    """
    shards = corpus.sides[side]
    ordered = sorted(pieces(shards, row_tokens), key=lambda piece: len(piece[0]))
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    nats = 0.0
    with torch.inference_mode():
        for at in range(0, len(ordered), PIECES_AT_ONCE):
            ids, labels = map(list, zip(*ordered[at : at + PIECES_AT_ONCE], strict=True))
            predicted = logits(pad(ids, padding_value=shards.index.end_id)).float()
            labels_BT = pad(labels, padding_value=IGNORED)
            flat = predicted.flatten(0, 1), labels_BT.flatten()
            nats += float(F.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum"))
    return nats / math.log(2) / corpus.n_bytes[side]
