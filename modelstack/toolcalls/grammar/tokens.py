"""A vocabulary prepared for grammars: bit masks, the price of a text in tokens, canonical encoding.

Letters: V vocabulary size, W = ceil(V / 32) words of a mask.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.grammar import TokenMask
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.marks import Marks

_NEEDED = '"{}[],:\\-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_'
"""Characters that must be single tokens, so that every call can be written in any state."""
_UTF8 = codecs.getincrementaldecoder("utf-8")
_PRICES_KEPT = 100_000
_DIGITS = re.compile("[0-9]+")


class TokenTable:
    """Tables derived once from a vocabulary, shared by all grammars over it."""

    def __init__(self, vocabulary: Vocabulary, marks: Marks | None = None) -> None:
        """Index the vocabulary; `marks` are control tokens that grammars may write.

        Raises:
            ValueError: the vocabulary lacks a token for a character that calls need.
        """
        self.vocabulary = vocabulary
        self.marks = marks or Marks()
        self.n_words = (len(vocabulary) + 31) // 32
        self.end_ids = frozenset(vocabulary.end_ids)
        self.withheld = vocabulary.special_ids | self.end_ids
        self.single: dict[bytes, int] = {}
        for i, token in enumerate(vocabulary.token_bytes):
            if len(token) == 1 and i not in self.withheld:
                self.single.setdefault(token, i)
        missing = [c for c in _NEEDED if c.encode() not in self.single]
        if missing:
            raise ValueError(
                f"the vocabulary has no token for {''.join(missing)!r}; tool calls need a token for each "
                "of these characters (any byte-level tokenizer has them)"
            )
        self.end_mask = self.mask_of(vocabulary.end_ids)
        self._texts: list[str | None] = [None] * len(vocabulary)
        for token, character in self.marks.characters.items():
            self._texts[token] = character
        self._beginnings: dict[tuple[str, str | None], TokenMask] = {}
        self._startings: dict[tuple[str, ...], TokenMask] = {}
        self._prices: dict[str, int] = {"": 0}

    def text(self, token_id: int) -> str | None:
        """Return the text of a token, for a mark its stand-in; None if its bytes alone are not valid UTF-8."""
        found = self._texts[token_id]
        if found is None:
            try:
                found = self.vocabulary.token_bytes[token_id].decode()
            except UnicodeDecodeError:
                return None
            self._texts[token_id] = found
        return found

    def price(self, text: str) -> int:
        """Return the number of tokens that `encode` gives for `text`."""
        found = self._prices.get(text)
        if found is None:
            found = len(self.encode(text))
            if len(self._prices) < _PRICES_KEPT:
                self._prices[text] = found
        return found

    def encode(self, text: str) -> list[int]:
        """Encode `text` to tokens with exactly its bytes; stand-ins become their marks."""
        if self.marks.ids:
            return [token for piece in self.marks.pieces(text) for token in self._encode_piece(piece)]
        return self._encode_text(text)

    def _encode_piece(self, piece: str) -> list[int]:
        mark = self.marks.ids.get(piece)
        return self._encode_text(piece) if mark is None else [mark]

    def _encode_text(self, text: str) -> list[int]:
        wanted = text.encode()
        ids = list(self.vocabulary.encode(text))
        if self.bytes_of(ids) == wanted and not self.withheld.intersection(ids):
            return ids
        return self._longest_first(wanted)

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of a sequence of tokens."""
        table = self.vocabulary.token_bytes
        return b"".join(table[i] for i in ids)

    def mask_of(self, ids: Iterable[int]) -> TokenMask:
        """Return a mask with the bits of `ids` set, W words."""
        bits = np.zeros(self.n_words * 32, dtype=np.uint8)
        bits[np.fromiter(ids, dtype=np.int64)] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def clear(self, mask: TokenMask, text: str) -> None:
        """Remove the token whose text is exactly `text` from `mask`, if there is one."""
        found = self._by_bytes.get(text.encode())
        if found is not None:
            mask[found >> 5] &= np.uint32(~(1 << (found & 31)) & 0xFFFFFFFF)

    def beginning(self, opening: str, instead: str | None = None) -> TokenMask:
        """Return the tokens that begin `opening` but not `instead`. The mask is shared: read only."""
        found = self._beginnings.get((opening, instead))
        if found is None:
            texts = [*self.writable, *((token, c) for c, token in self.marks.ids.items())]
            texts = [(i, text) for i, text in texts if text.startswith(opening) or opening.startswith(text)]
            found = self.mask_of(i for i, text in texts if instead is None or not text.startswith(instead))
            self._beginnings[opening, instead] = found
        return found

    def starting(self, beginnings: tuple[str, ...]) -> TokenMask:
        """Return the tokens of text that begin with one of these texts, or are the beginning of one."""
        found = self._startings.get(beginnings)
        if found is None:
            found = self._startings[beginnings] = self.mask_of(
                i
                for i, text in self.writable
                if text.startswith(beginnings) or any(b.startswith(text) for b in beginnings)
            )
        return found

    def longer_tokens(self, prefix: bytes) -> list[int]:
        """Return the tokens of text that are longer than `prefix` and begin with it."""
        keys, ids = self._sorted
        at = bisect_left(keys, prefix)
        found = []
        while at < len(keys) and keys[at].startswith(prefix):
            if len(keys[at]) > len(prefix):
                found.append(ids[at])
            at += 1
        return found

    @cached_property
    def writable(self) -> list[tuple[int, str]]:
        """Tokens of whole characters without control characters, from which JSON text can be made."""
        found = []
        for i in range(len(self.vocabulary)):
            text = None if i in self.withheld else self.text(i)
            if text and min(text) >= " " and "\x7f" not in text:
                found.append((i, text))
        return found

    @cached_property
    def fragments(self) -> list[tuple[int, bytes]]:
        """Tokens that contain an incomplete character."""
        table = enumerate(self.vocabulary.token_bytes)
        return [(i, token) for i, token in table if i not in self.withheld and self.text(i) is None]

    @cached_property
    def cut_texts(self) -> dict[str, list[tuple[int, bytes]]]:
        """Fragments that may follow a whole character, by their whole characters; bytes of the incomplete one."""
        found: dict[str, list[tuple[int, bytes]]] = {}
        for i, data in self.fragments:
            split = split_utf8(data)
            if split is not None:
                found.setdefault(split[0], []).append((i, split[1]))
        return found

    @cached_property
    def closers(self) -> TokenMask:
        """Tokens that consist of closing quotes, braces and brackets."""
        return self.mask_of(i for i, text in self.writable if not text.strip('"}]'))

    def _longest_first(self, wanted: bytes) -> list[int]:
        """Encode bytes greedily: exact, but not canonical."""
        ids, at = [], 0
        while at < len(wanted):
            for end in range(min(len(wanted), at + self._longest), at, -1):
                found = self._by_bytes.get(wanted[at:end])
                if found is not None:
                    ids.append(found)
                    at = end
                    break
            else:
                raise ValueError(f"the vocabulary cannot write byte {wanted[at]:#04x}")
        return ids

    @cached_property
    def longest_number(self) -> int:
        """Length of the longest run of digits in a token, in characters."""
        return max((len(run) for _, text in self.writable for run in _DIGITS.findall(text)), default=1)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        table = enumerate(self.vocabulary.token_bytes)
        return {token: i for i, token in table if token and i not in self.withheld}

    @cached_property
    def _longest(self) -> int:
        return max(len(token) for token in self._by_bytes)

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        pairs = sorted(self._by_bytes.items())
        return [token for token, _ in pairs], [i for _, i in pairs]


def split_utf8(data: bytes) -> tuple[str, bytes] | None:
    """Return the whole characters of `data` and the bytes of an incomplete one; None if it cannot become UTF-8."""
    decoder = _UTF8()
    try:
        text, pending = decoder.decode(data), decoder.getstate()[0]
    except UnicodeDecodeError:
        return None
    if pending[:1] == b"\xed" and pending[1:2] >= b"\xa0":
        return None  # a surrogate: the decoder would wait for its last byte before refusing it
    return text, pending


def code_points(pending: bytes) -> tuple[int, int]:
    """Return the lowest and highest code point whose UTF-8 encoding begins with `pending`."""
    length = 2 if pending[0] < 0xE0 else 3 if pending[0] < 0xF0 else 4
    code = pending[0] & (0xFF >> (length + 1))
    for byte in pending[1:]:
        code = code << 6 | byte & 0x3F
    open_bits = 6 * (length - len(pending))
    low, high = code << open_bits, (code + 1 << open_bits) - 1
    return max(low, (0x80, 0x800, 0x10000)[length - 2]), min(high, 0xD7FF if pending[0] == 0xED else 0x10FFFF)


def legal_ids(mask: TokenMask, n_tokens: int) -> NDArray[np.int64]:
    """Return the ids whose bits are set."""
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:n_tokens])


def is_set(mask: TokenMask, token_id: int) -> bool:
    """Return whether the bit of one token is set."""
    return bool((int(mask[token_id >> 5]) >> (token_id & 31)) & 1)
