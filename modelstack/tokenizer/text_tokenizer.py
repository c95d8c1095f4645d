"""A tokenizer with two separate encoders: content, which never yields a control token, and template text.

`tokenizers` searches for the names of added tokens in all text that it encodes. Content therefore uses a second
tokenizer whose vocabulary and merges lack every special token. An absent token cannot be produced by any
normaliser, pattern or merge of a file, so no search for forgeries is needed.

Guarantee for content: the joined bytes of its ids are the bytes of the text after the tokenizer's own normaliser
(none for most; NFC for Qwen's; U+2581 for blanks is decoded to blanks). Exceptions: a lone surrogate, which is not
text, becomes `?`; a character that the vocabulary cannot spell becomes U+FFFD. The blank that SentencePiece adds
before the first word is omitted, because it would be wrong inside a conversation. Callers must decode bytes that
are not UTF-8 before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from modelstack.errors import UserError
from modelstack.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLANK = "\u2581"
"""SentencePiece's character for a blank."""
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""Names of single-byte tokens in vocabularies that are not byte-level."""
_BYTE_OF = {name: byte for byte, name in enumerate(BYTE_NAMES)}
REPLACEMENTS = ("\ufffd", "?", " ")
"""Replacements for a character that the vocabulary cannot spell; the first that it can spell is used."""
END_NAMES = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|return|>", "<|call|>", "<EOT>", "[EOS]",
    "<reponame>", "<|repo_name|>", "<|file_sep|>", "<|fim_pad|>",
)  # fmt: skip
"""Names of tokens that end a reply in well-known vocabularies; llama.cpp uses such names too."""


@dataclass(frozen=True, slots=True)
class SpecialNames:
    """Names of tokens with a role, from a `tokenizer_config.json` or a GGUF file."""

    begin: str | None = None
    end: str | None = None
    pad: str | None = None
    adds_begin: bool = False
    """Whether every text begins with the begin token."""


class TextTokenizer:
    """A loaded tokenizer: `encode` for content, `encode_template` for template text, the bytes of each token."""

    def __init__(
        self, description: Mapping[str, Any], names: SpecialNames, chat_template: str | None = None
    ) -> None:
        """Build both encoders from the content of a `tokenizer.json`.

        Raises:
            UserError: It is not a BPE vocabulary with a token for each id, or `tokenizers` rejects it.
        """
        description = _in_one_form(description)
        self.description: Mapping[str, Any] = description
        self.names = names
        self.chat_template = chat_template
        tokens = token_names(description)
        special = special_ids(description, tokens)
        self.is_byte_level = _mentions(description, "ByteLevel")
        has_bytes = description["model"].get("byte_fallback") is True
        token_bytes = tuple(
            name.encode() if i in special else _bytes_of(name, self.is_byte_level, has_bytes)
            for i, name in enumerate(tokens)
        )
        self.tokenizer = build(description)
        self._content = build(_without_special(description, special, tokens))
        self._spellable = cache(self._can_spell)
        self._known = frozenset(token for i, token in enumerate(tokens) if i not in special)
        self._bytes = frozenset(
            data[0] for i, data in enumerate(token_bytes) if len(data) == 1 and i not in special
        )
        self._replacement = next((c for c in REPLACEMENTS if self._can_spell(c)), "")
        self.vocabulary = Vocabulary(
            token_bytes=token_bytes,
            special_ids=special,
            end_ids=_end_ids(tokens, special, names, chat_template or ""),
            encode=self.encode,
            bos_id=tokens.index(names.begin) if names.adds_begin and names.begin in tokens else None,
        )

    def encode(self, text: str) -> list[int]:
        """Encode untrusted text; the ids contain no special token.

        Raises:
            UserError: The pattern matcher gives up on the text.
        """
        with panics_as_errors():
            return self._content.encode(self._prepared(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many untrusted texts; uses all cores if `TOKENIZERS_PARALLELISM` is unset.

        Raises:
            UserError: The pattern matcher gives up on one of the texts.
        """
        prepared = [self._prepared(text) for text in texts]
        with panics_as_errors():
            encodings = self._content.encode_batch_fast(prepared, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_template(self, text: str) -> list[int]:
        """Encode template text, in which names of special tokens yield these tokens.

        Raises:
            UserError: The pattern matcher gives up on the text.
        """
        with panics_as_errors():
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the joined bytes of `ids`; special tokens yield their names."""
        return b"".join(self.vocabulary.token_bytes[i] for i in ids)

    def _prepared(self, text: str) -> str:
        """Return the text with characters replaced that the vocabulary cannot spell."""
        text = text.encode("utf-8", "replace").decode()
        missing = {c for c in set(text) if not self._spellable(c)}
        return "".join(self._replacement if c in missing else c for c in text) if missing else text

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the cache."""
        return {name: value for name, value in vars(self).items() if name != "_spellable"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of another process."""
        vars(self).update(state)
        self._spellable = cache(self._can_spell)

    def _can_spell(self, character: str) -> bool:
        if not self.is_byte_level and (BLANK if character == " " else character) in self._known:
            return True
        return self._bytes.issuperset(character.encode())


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Convert a panic of the library, which `except Exception` does not catch, to an error with its message.

    Oniguruma gives up after ten million backtracking steps: early for a malicious pattern, and for a known pattern
    on millions of blanks.

    Raises:
        UserError: The library panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        hint = (
            "; millions of consecutive blanks or letters cause this. Split the text into parts"
            if "Onig" in str(error)
            else ""
        )
        raise UserError(f"the tokenizers library gave up: {error}{hint}") from error


def build(description: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer for the content of a `tokenizer.json`.

    Raises:
        UserError: `tokenizers` rejects it.
    """
    from tokenizers import Tokenizer

    try:
        with panics_as_errors():
            return Tokenizer.from_str(json.dumps(description))
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception for invalid input
        raise UserError(f"not a tokenizer that the tokenizers library can run: {error}") from error


def token_names(description: Mapping[str, Any]) -> list[str]:
    """Return the name of each id.

    Raises:
        UserError: The model is not BPE, ids have gaps, or an id or a name occurs twice.
    """
    model = description["model"]
    if model.get("type") != "BPE":
        raise UserError(f"the tokenizer's model is {model.get('type')!r}; only BPE is supported")
    by_id: dict[int, str] = {}
    named = [*model["vocab"].items(), *((token["content"], token["id"]) for token in description["added_tokens"])]
    for name, token in named:
        if by_id.setdefault(token, name) != name:
            raise UserError(f"id {token} belongs to two tokens, {by_id[token]!r} and {name!r}")
    twice = next((name for name, n in Counter(by_id.values()).items() if n > 1), None)
    if twice is not None:
        raise UserError(f"token {twice!r} has two ids")
    gap = next((i for i in range(len(by_id)) if i not in by_id), None)
    if gap is not None:
        raise UserError(f"no token has id {gap}, though {len(by_id)} tokens have ids up to {max(by_id)}")
    return [by_id[i] for i in range(len(by_id))]


def special_ids(description: Mapping[str, Any], tokens: Sequence[str]) -> frozenset[int]:
    """Return the ids that content must not produce: the unknown token, and added tokens except plain blanks."""
    added = {t["id"] for t in description["added_tokens"] if t["special"] or not t["content"].isspace()}
    unknown = description["model"].get("unk_token")
    return frozenset(added | ({tokens.index(unknown)} if unknown in tokens else set()))


@cache
def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable characters for bytes: printable Latin-1 is unchanged, others start at U+0100."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _bytes_of(name: str, is_byte_level: bool, has_bytes: bool) -> bytes:
    alphabet = byte_alphabet()
    if is_byte_level:
        return bytes(alphabet[c] for c in name) if all(c in alphabet for c in name) else name.encode()
    if has_bytes and name in _BYTE_OF:
        return bytes([_BYTE_OF[name]])
    return name.replace(BLANK, " ").encode()


def _end_ids(
    tokens: Sequence[str], special: frozenset[int], names: SpecialNames, template: str
) -> tuple[int, ...]:
    """Return the tokens that end a reply: first those in the template, then the end of text, then others."""
    ends = [i for i in sorted(special) if tokens[i] == names.end or tokens[i] in END_NAMES]
    return tuple(sorted(ends, key=lambda i: (tokens[i] not in template, tokens[i] != names.end, i)))


def _without_special(
    description: Mapping[str, Any], special: frozenset[int], tokens: Sequence[str]
) -> dict[str, Any]:
    """Return the same tokenizer without special tokens, in vocabulary, merges and added tokens."""
    gone = {tokens[i] for i in special}
    model = dict(description["model"])
    model["vocab"] = {name: token for name, token in model["vocab"].items() if name not in gone}
    model["merges"] = [(a, b) for a, b in model["merges"] if not gone & {a, b, a + b}]
    model["unk_token"] = None
    kept = [token for token in description["added_tokens"] if token["id"] not in special]
    # Added tokens missing in the model's vocabulary would get the next free id, which the removed tokens changed.
    model["vocab"] |= {token["content"]: token["id"] for token in kept}
    return {**description, "model": model, "added_tokens": kept, "post_processor": None}


def _in_one_form(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description without blanks before texts and with merges as pairs (older files have strings)."""
    changed = _without_prefix_blanks(description)
    merges = changed["model"].get("merges", ())
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return {**changed, "model": {**changed["model"], "merges": pairs}}


def _without_prefix_blanks(node: Any) -> Any:
    """Disable all options that add a blank before a text: `Prepend`, and two options of pre-tokenisers."""
    if isinstance(node, list):
        return [_without_prefix_blanks(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    kind = node.get("type")
    if kind == "Prepend":
        return {"type": "Sequence", "normalizers": []}
    changed = {
        key: value if key in ("vocab", "merges") else _without_prefix_blanks(value) for key, value in node.items()
    }
    if kind == "Metaspace":
        changed |= {"prepend_scheme": "never"}
    if kind == "ByteLevel":
        changed |= {"add_prefix_space": False}
    return changed


def _mentions(description: Mapping[str, Any], kind: str) -> bool:
    """Whether the pre-tokeniser or the decoder contains a component of this type."""
    return any(kind == found for part in ("pre_tokenizer", "decoder") for found in _types(description.get(part)))


def _types(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        yield str(node.get("type"))
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for item in node:
            yield from _types(item)
