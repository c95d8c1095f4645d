"""Token shards of known content, made with a tokenizer of bytes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.tokenizer.text_tokenizer import SpecialNames

BEGIN, END = 256, 257


class ByteTokenizer:
    """A token for each byte; counts what it is asked to encode."""

    def __init__(self, *, adds_begin: bool = True, n_ids: int = 258) -> None:
        self.names = SpecialNames("<b>", "<e>", None, adds_begin)
        vocab = {f"{i}": i for i in range(256)} | {f"spare {i}": i for i in range(258, n_ids)}
        added = [{"content": "<b>", "id": BEGIN}, {"content": "<e>", "id": END}]
        self.description: Mapping[str, Any] = {"model": {"vocab": vocab}, "added_tokens": added}
        self.n_encoded = 0

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.n_encoded += len(texts)
        return [list(text.encode()) for text in texts]

    def encode_template(self, text: str) -> list[int]:
        return [{"<b>": BEGIN, "<e>": END}[text]]


def toy_documents(n: int = 120, seed: int = 0) -> list[SourcedText]:
    """Texts of 0 to 90 letters, from three sources of unequal size."""
    draw = random.Random(seed)
    return [
        SourcedText(
            "".join(draw.choices("abcdefgh ", k=draw.randrange(90))), draw.choice(("big", "big", "mid", "small"))
        )
        for _ in range(n)
    ]


def toy_shards(folder: Path, documents: Sequence[SourcedText] | None = None) -> Shards:
    """Several shards of toy documents."""
    write_shards(toy_documents() if documents is None else documents, ByteTokenizer(), folder, shard_bytes=2000)
    return Shards(folder)
