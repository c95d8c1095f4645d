"""Removal of long word spans that occurred before (Lee et al. 2022, arXiv 2107.06499).

A word is removed if a window of 50 words that contains it occurred earlier, in the same document or a previous
one. This is RefinedWeb's exact-substring step (arXiv 2306.01116, section 3.3) with words instead of tokens. Lee et
al. sort all suffixes, which takes about ten bytes of memory for each byte of text at once. Here window hashes are
sorted on disk and merged in bounded memory (`merging`). Matches are compared with the text before anything is
removed, so hash collisions, one pair in 2^64, remove nothing.

Stages: `write_windows` per shard, `repeats.write_repeats` over their keys, `repeated_spans` per shard. Disk: 12
bytes per window, 8 per word, and the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from modelstack.data.dedup.key_files import KeyWriter
from modelstack.data.dedup.merging import EARLIER
from modelstack.data.dedup.repeats import read_repeats
from modelstack.data.dedup.shingles import shingle_hashes
from modelstack.errors import UserError
from modelstack.files import replacing_folder

KEYS = "windows.keys"
_TEXT, _WORDS, _DOCUMENTS = "words.txt", "word_starts.u64", "document_ends.u64"
_WORD = re.compile(r"\S+")
_ADD_AT_ONCE = 1 << 16

Span = tuple[int, int]
"""First removed word of a document, and the first kept word after it."""


class SubstringConfig(BaseModel, frozen=True, extra="forbid"):
    """Repeated word spans (RefinedWeb, arXiv 2306.01116, section 3.3)."""

    kind: Literal["substring"] = "substring"
    n_words: int = Field(default=50, ge=2)
    """Words of the shortest removed span."""

    @property
    def settings(self) -> str:
        """Configuration as JSON; only key files with equal settings are comparable."""
        return self.model_dump_json()


def write_windows(texts: Iterable[str], out: Path, config: SubstringConfig) -> int:
    """Write the windows of a shard's documents (keys and words) to a folder; return the number of documents.

    The folder is written atomically; its file `KEYS` is the input of `write_repeats`.
    """
    n_documents = n_words = n_bytes = 0
    with (
        replacing_folder(out) as folder,
        KeyWriter(folder / KEYS, config.settings, 1) as writer,
        (folder / _TEXT).open("wb") as text_file,
        (folder / _WORDS).open("wb") as words_file,
        (folder / _DOCUMENTS).open("wb") as documents_file,
    ):
        for text in texts:
            joined = " ".join(text.split())
            data = joined.encode("utf-8", "surrogatepass") + b"\n" if joined else b""
            first = n_words
            for hashes in shingle_hashes(joined, config.n_words):
                for begin in range(0, len(hashes), _ADD_AT_ONCE):
                    part = hashes[begin : begin + _ADD_AT_ONCE]
                    writer.add(part[:, None], np.arange(first, first + len(part)))
                    first += len(part)
            ends = np.flatnonzero((np.frombuffer(data, np.uint8) == 32) | (np.frombuffer(data, np.uint8) == 10))
            text_file.write(data)
            words_file.write((ends + (n_bytes + 1)).astype("<u8").tobytes())
            n_words += len(ends)
            n_bytes += len(data)
            documents_file.write(n_words.to_bytes(8, "little"))
            n_documents += 1
        writer.count(n_words)
    return n_documents


def repeated_spans(
    folders: Sequence[Path], shard: int, repeats: Path, config: SubstringConfig
) -> Iterator[list[Span]]:
    """Yield for each document of a shard the word spans to remove.

    Args:
        folders: Output folders of `write_windows` for all shards, in the order passed to `write_repeats`.
        shard: Index of the shard.
        repeats: Output folder of `write_repeats`.
        config: The configuration passed to `write_windows`.
    """
    words = _Words(folders[shard])
    positions, firsts = read_repeats(repeats, shard)
    goes = _true_windows(positions, firsts, words, folders, config.n_words)
    begin_word = 0
    for end_word in np.fromfile(folders[shard] / _DOCUMENTS, "<u8").tolist():
        low, high = np.searchsorted(goes, (begin_word, end_word))
        yield _joined(goes[low:high] - begin_word, config.n_words)
        begin_word = end_word


def without_spans(text: str, spans: Sequence[Span]) -> str:
    """Return a text without the given word spans; white space after a removed word is removed too."""
    if not spans:
        return text
    starts = [match.start() for match in _WORD.finditer(text)] + [len(text)]
    kept: list[str] = []
    end = 0
    for first, after in spans:
        kept.append(text[end : starts[first]])
        end = starts[after]
    return "".join([*kept, text[end:]]).rstrip()


class _Words:
    """The words of a shard, as bytes on disk."""

    def __init__(self, folder: Path) -> None:
        self._text = _mapped(folder / _TEXT, "u1")
        self._ends = _mapped(folder / _WORDS, "<u8")

    def __getitem__(self, span: slice) -> bytes:
        begin = int(self._ends[span.start - 1]) if span.start else 0
        return self._text[begin : int(self._ends[span.stop - 1]) - 1].tobytes()


def _mapped(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _true_windows(
    positions: np.ndarray, firsts: np.ndarray, words: _Words, folders: Sequence[Path], n_words: int
) -> np.ndarray:
    """Return the positions whose window equals the first one word by word.

    Consecutive positions that repeat consecutive windows form one long span and are compared at once.
    """
    if not len(positions):
        return positions
    if (firsts == EARLIER).any():
        raise UserError("windows of an earlier dump cannot be compared with its text; give its folders as shards")
    opened: dict[int, _Words] = {}
    borders = np.flatnonzero((np.diff(positions) != 1) | (np.diff(firsts) != 1)) + 1
    true: list[np.ndarray] = []
    for begin, end in pairwise([0, *borders.tolist(), len(positions)]):
        name = int(firsts[begin])
        shard, first = name >> 32, name & 0xFFFFFFFF
        if shard not in opened:
            opened[shard] = _Words(folders[shard])
        here, length = int(positions[begin]), end - begin + n_words - 1
        mine, theirs = words[here : here + length], opened[shard][first : first + length]
        if mine == theirs:
            true.append(positions[begin:end])
        else:
            differs = [a != b for a, b in zip(mine.split(b" "), theirs.split(b" "), strict=True)]
            n_different = np.convolve(differs, np.ones(n_words, np.int64), "valid")
            true.append(positions[begin:end][n_different == 0])
    return np.concatenate(true)


def _joined(windows: np.ndarray, n_words: int) -> list[Span]:
    """Return the spans covered by windows: sorted and disjoint."""
    if not len(windows):
        return []
    borders = np.flatnonzero(np.diff(windows) > n_words) + 1
    return [(int(part[0]), int(part[-1]) + n_words) for part in np.split(windows, borders)]
