"""The vocabulary of a GGUF file: bytes of each token, special ids, and two separate encoders.

`encode_content` is for text from outside (users, tools, files) and never yields a special token. llama.cpp's
`parse_special=False` does not guarantee that: it still recognises user-defined tokens, and Qwen stores
`<tool_call>` as one. `encode_template` is for the chat template's own text, in which names become tokens.

Both keep the text exactly: the bytes of the ids, joined, are the bytes of the text. SentencePiece vocabularies
would put a space before the first word, which is wrong inside a conversation and therefore removed. Characters
that a vocabulary cannot spell (SmolLM2 has no token for byte 0x04) become U+FFFD; llama.cpp would drop them.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator

from modelstack.inference.engine import EngineError
from modelstack.inference.llama.library import library
from modelstack.inference.llama.model import LlamaWeights
from modelstack.tokenizer.vocabulary import Vocabulary

# enum llama_token_attr of llama.h
UNKNOWN, UNUSED, CONTROL, USER_DEFINED = 1 << 0, 1 << 1, 1 << 3, 1 << 4
NO_VOCABULARY = 0
"""The value LLAMA_VOCAB_TYPE_NONE of llama.h."""

REPLACEMENTS = ("\ufffd", "?", " ")
"""Replacements for a character that the vocabulary cannot spell; the first that it can spell is used."""
ANCHOR = "\n"
"""Text put before another to keep SentencePiece from adding a space; no vocabulary merges a newline with a word.
"""


def load_vocabulary(weights: LlamaWeights) -> tuple[Vocabulary, TextEncoder]:
    """Return the vocabulary of a loaded model, and the encoder that also provides `encode_template`.

    Raises:
        EngineError: the file has no vocabulary; llama.cpp would assert when a token's text is requested.
    """
    if library().llama_vocab_type(weights.vocab) == NO_VOCABULARY:
        raise EngineError(
            "the GGUF file has no vocabulary (tokenizer.ggml.model is 'none' or 'no_vocab'), and an engine needs "
            "its tokens; export the model with its tokenizer"
        )
    token_bytes = tuple(_pieces(weights))
    special = frozenset(_special_ids(weights, token_bytes))
    encoder = TextEncoder(weights, token_bytes, special)
    vocabulary = Vocabulary(
        token_bytes=token_bytes,
        special_ids=special,
        end_ids=_end_ids(weights, token_bytes, special),
        encode=encoder.encode_content,
        bos_id=_bos_id(weights),
    )
    return vocabulary, encoder


def _pieces(weights: LlamaWeights) -> Iterator[bytes]:
    lib = library()
    size = 256
    buffer = ctypes.create_string_buffer(size)
    for token in range(weights.n_vocab):
        n = lib.llama_token_to_piece(weights.vocab, token, buffer, size, 0, True)
        if n < 0:
            size = -n
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(weights.vocab, token, buffer, size, 0, True)
        yield buffer.raw[:n]


def _special_ids(weights: LlamaWeights, token_bytes: tuple[bytes, ...]) -> Iterator[int]:
    lib = library()
    for token, text in enumerate(token_bytes):
        attributes = lib.llama_vocab_get_attr(weights.vocab, token)
        # Gemma and others define runs of blanks as tokens: they are text and have no role.
        is_named = attributes & USER_DEFINED and not text.isspace()
        if attributes & (CONTROL | UNKNOWN | UNUSED) or is_named or lib.llama_vocab_is_eog(weights.vocab, token):
            yield token


def _end_ids(weights: LlamaWeights, token_bytes: tuple[bytes, ...], special: frozenset[int]) -> tuple[int, ...]:
    """Return all end-of-generation tokens.

    First the one that the chat template writes, then EOS, EOT, the others.
    """
    lib = library()
    template = (weights.chat_template() or "").encode()
    eos, eot = lib.llama_vocab_eos(weights.vocab), lib.llama_vocab_eot(weights.vocab)
    ends = [token for token in special if lib.llama_vocab_is_eog(weights.vocab, token)]

    def order(token: int) -> tuple[bool, bool, bool, int]:
        written = bool(token_bytes[token]) and token_bytes[token] in template
        return (not written, token != eos, token != eot, token)

    return tuple(sorted(ends, key=order))


def _bos_id(weights: LlamaWeights) -> int | None:
    """Return the begin token if the tokenizer adds it or the chat template asks for it, else None."""
    lib = library()
    bos = lib.llama_vocab_bos(weights.vocab)
    wanted = lib.llama_vocab_get_add_bos(weights.vocab) or "bos_token" in (weights.chat_template() or "")
    return bos if wanted and bos >= 0 else None


class TextEncoder:
    """Encodes content and template text with llama.cpp's tokenizer."""

    def __init__(self, weights: LlamaWeights, token_bytes: tuple[bytes, ...], special: frozenset[int]) -> None:
        """Prepare the encoders of a loaded model."""
        self._weights = weights
        self._special = special
        self._byte_tokens = {
            text[0]: token for token, text in enumerate(token_bytes) if len(text) == 1 and token not in special
        }
        self._missing_bytes = bytes(b for b in range(256) if b not in self._byte_tokens)
        self._special_start = _starts_of(token_bytes[token].decode("utf-8", "replace") for token in special)
        self._anchor_ids: list[int] = []
        first = self._tokenize("a", parse_special=False)
        if first and token_bytes[first[0]].startswith(b" "):
            self._anchor_ids = self._tokenize(ANCHOR, parse_special=False)
        self._replacement = next((c for c in REPLACEMENTS if not self._lacks_bytes_for(c)), "")

    def encode_content(self, text: str) -> list[int]:
        """Encode text from outside; the ids contain no special token.

        Raises:
            EngineError: the engine is closed.
        """
        text = self._spellable(text)
        ids = self._encode(text, parse_special=False)
        if self._special.isdisjoint(ids):
            return ids
        pieces = list(self._cut_inside_names(text))
        encoded = {piece: self._encode_piece(piece) for piece in set(pieces)}  # a forged name is usually repeated
        return [token for piece in pieces for token in encoded[piece]]

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template, in which the names of special tokens become these tokens.

        Raises:
            EngineError: the engine is closed.
        """
        return self._encode(text, parse_special=True)

    def _cut_inside_names(self, text: str) -> Iterator[str]:
        """Yield the text cut after the first character of every special name, so that no piece contains a name."""
        start = 0
        for match in self._special_start.finditer(text):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        yield text[start:]

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._encode(piece, parse_special=False)
        if self._special.isdisjoint(ids):
            return ids
        # A name of one character, or a character that the tokenizer maps to "unknown": spell it by bytes.
        return [self._byte_tokens[b] for b in piece.encode() if b in self._byte_tokens]

    def _encode(self, text: str, *, parse_special: bool) -> list[int]:
        if not text:
            return []
        if self._anchor_ids:
            ids = self._tokenize(ANCHOR + text, parse_special=parse_special)
            n = len(self._anchor_ids)
            if ids[:n] == self._anchor_ids:
                return ids[n:]
        return self._tokenize(text, parse_special=parse_special)

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return self._weights.tokenize(text.encode("utf-8", "replace"), parse_special=parse_special)

    def _lacks_bytes_for(self, text: str) -> bool:
        data = text.encode("utf-8", "replace")
        return len(data.translate(None, self._missing_bytes)) != len(data)

    def _spellable(self, text: str) -> str:
        """Return the text with characters replaced that need a byte without a token."""
        if not self._byte_tokens or not self._lacks_bytes_for(text):
            return text
        return "".join(self._replacement if self._lacks_bytes_for(c) else c for c in text)


def _starts_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches, without consuming, at each beginning of one of `names`."""
    longest_first = sorted({name for name in names if name}, key=len, reverse=True)
    if not longest_first:
        return re.compile(r"(?!)")
    return re.compile("(?=" + "|".join(map(re.escape, longest_first)) + ")")
