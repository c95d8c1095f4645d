"""A tokenizer with the two encoders that never mix: content, which yields no control token, and template text.

`tokenizers` looks for the names of added tokens in all text it encodes. So content goes to a second tokenizer that
has never heard of them: its vocabulary and its merges lack every special token. What is not there cannot be
produced, whatever normaliser, pattern or merge a file brings; no search for forgeries is needed.

What is promised of content: the bytes of its ids, joined, are the bytes of the text after the tokenizer's own
normaliser (none for most; NFC for Qwen's; U+2581 is a blank where it stands for one). A lone surrogate, which is
no text, becomes `?`; a character that the vocabulary cannot spell becomes U+FFFD. A blank that SentencePiece puts
before the first word is left out: inside a conversation it would be wrong. Bytes that are not UTF-8 are no text
either: whoever decodes them decides what they become.
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
"""SentencePiece's sign for a blank."""
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""Tokens of single bytes, in vocabularies that are not byte-level."""
_BYTE_OF = {name: byte for byte, name in enumerate(BYTE_NAMES)}
REPLACEMENTS = ("\ufffd", "?", " ")
"""What stands for a character that the vocabulary cannot spell; the first that it can."""
END_NAMES = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|return|>", "<|call|>", "<EOT>", "[EOS]",
    "<reponame>", "<|repo_name|>", "<|file_sep|>", "<|fim_pad|>",
)  # fmt: skip
"""Names that end a reply in well-known vocabularies; llama.cpp goes by such names too."""


@dataclass(frozen=True, slots=True)
class SpecialNames:
    """Which tokens play a role, by name; what a `tokenizer_config.json` or a GGUF says beside the vocabulary."""

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
            UserError: it is no BPE vocabulary with a token for each id, or `tokenizers` refuses it.
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
        """Encode text from outside; the ids hold no special token.

        Raises:
            UserError: the pattern gives up on the text.
        """
        with told_panics():
            return self._content.encode(self._prepared(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts from outside at once; with `TOKENIZERS_PARALLELISM` unset, on all cores.

        Raises:
            UserError: the pattern gives up on one of the texts.
        """
        prepared = [self._prepared(text) for text in texts]
        with told_panics():
            encodings = self._content.encode_batch_fast(prepared, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template, where the names of special tokens stand for these.

        Raises:
            UserError: the pattern gives up on the text.
        """
        with told_panics():
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`, joined; the names' bytes for special tokens."""
        return b"".join(self.vocabulary.token_bytes[i] for i in ids)

    def _prepared(self, text: str) -> str:
        """Return text that the vocabulary can spell."""
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
def told_panics() -> Iterator[None]:
    """Turn a panic of the library, which no `except Exception` sees, into an error that says what happened.

    Oniguruma gives up after ten million steps back: a hostile pattern soon, a known one at that many blanks.

    Raises:
        UserError: it panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        hint = (
            "; millions of blanks or letters in a row do that: cut the text into pieces"
            if "Onig" in str(error)
            else ""
        )
        raise UserError(f"the tokenizers library gave up: {error}{hint}") from error


def build(description: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`'s content.

    Raises:
        UserError: `tokenizers` refuses it.
    """
    from tokenizers import Tokenizer

    try:
        with told_panics():
            return Tokenizer.from_str(json.dumps(description))
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself, for whatever it dislikes
        raise UserError(f"not a tokenizer that the tokenizers library can run: {error}") from error


def token_names(description: Mapping[str, Any]) -> list[str]:
    """Return the name of each id.

    Raises:
        UserError: the model is not BPE, or ids have gaps, or an id or a name is used twice.
    """
    model = description["model"]
    if model.get("type") != "BPE":
        raise UserError(f"the tokenizer's model is {model.get('type')!r}; only BPE is known here")
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
    """Return the ids that content must not produce: added tokens but for plain blanks, and the unknown one."""
    added = {t["id"] for t in description["added_tokens"] if t["special"] or not t["content"].isspace()}
    unknown = description["model"].get("unk_token")
    return frozenset(added | ({tokens.index(unknown)} if unknown in tokens else set()))


@cache
def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-ins for bytes: printable Latin-1 for itself, the others from U+0100 on."""
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
    """Return the tokens that end a reply: first what the template writes, then the end of text, then others."""
    ends = [i for i in sorted(special) if tokens[i] == names.end or tokens[i] in END_NAMES]
    return tuple(sorted(ends, key=lambda i: (tokens[i] not in template, tokens[i] != names.end, i)))


def _without_special(
    description: Mapping[str, Any], special: frozenset[int], tokens: Sequence[str]
) -> dict[str, Any]:
    """Return the same tokenizer without special tokens: not added, not in the vocabulary, not made by a merge."""
    gone = {tokens[i] for i in special}
    model = dict(description["model"])
    model["vocab"] = {name: token for name, token in model["vocab"].items() if name not in gone}
    model["merges"] = [(a, b) for a, b in model["merges"] if not gone & {a, b, a + b}]
    model["unk_token"] = None
    kept = [token for token in description["added_tokens"] if token["id"] not in special]
    # An added token that the model does not know would get the next free id, and the gaps have moved that.
    model["vocab"] |= {token["content"]: token["id"] for token in kept}
    return {**description, "model": model, "added_tokens": kept, "post_processor": None}


def _in_one_form(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return it without blanks before texts and with merges as pairs; older files write a merge as one text."""
    changed = _without_prefix_blanks(description)
    merges = changed["model"].get("merges", ())
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return {**changed, "model": {**changed["model"], "merges": pairs}}


def _without_prefix_blanks(node: Any) -> Any:
    """Turn off whatever puts a blank before a text: `Prepend`, and two options of pre-tokenisers."""
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
    """Whether a component of this type cuts the text or joins the tokens."""
    return any(kind == found for part in ("pre_tokenizer", "decoder") for found in _types(description.get(part)))


def _types(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        yield str(node.get("type"))
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for item in node:
            yield from _types(item)
