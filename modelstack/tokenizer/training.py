"""Training of byte-pair encoding on documents (Sennrich et al. 2016), in the two forms that runtimes support.

"byte-level" (GPT-2): text is a sequence of bytes, all 256 are tokens, nothing is unknown. "byte-fallback"
(SentencePiece, as in Llama 2): text is a sequence of characters, a blank is U+2581, and a character that is not a
token is spelled as `<0xNN>` tokens. The second form does not split text when it encodes: llama.cpp merges the pair
with the best token, not only pairs seen in training. So every way to spell a token from two others is a merge
here, best token first.

The same documents and configuration give the same tokenizer, in any order of documents: ties are broken by ids,
which come from the alphabet. Special tokens are added after training, so no count depends on them. Reserved tokens
fill the vocabulary up to the required multiple.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from modelstack.errors import UserError
from modelstack.tokenizer.pretokenizers import Digits, PresetName, PreTokenizer, pretokenizer
from modelstack.tokenizer.special_tokens import SpecialTokens
from modelstack.tokenizer.text_tokenizer import BLANK, BYTE_NAMES, SpecialNames, TextTokenizer, panics_as_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers

_WORDS = rf"{BLANK}?[^\s{BLANK}\p{{N}}]+|{BLANK}+|\s+|"
"""Pattern of the pieces in which the byte-fallback form learns: words with the blank before them, runs of blanks,
and numbers.
"""
Piece = tuple[str, str]


class TokenizerConfig(BaseModel):
    """All settings that determine a tokenizer, besides the documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["byte-level", "byte-fallback"] = "byte-level"
    """BPE over bytes, or over characters with bytes for those outside the alphabet."""
    vocab_size: int = Field(default=16_384, ge=300, le=1_000_000)
    """Number of ids, including special tokens; fewer if the documents do not contain enough pairs."""
    pretokenizer: PresetName = "qwen2"
    """Splits of a known model; for "byte-level" only."""
    digits: Digits | None = None
    """Grouping of digits; None: that of the preset ("byte-fallback": "1")."""
    special_tokens: SpecialTokens = SpecialTokens()
    special_placement: Literal["start", "end"] = "end"
    """Place of the special tokens' ids."""
    pad_to_multiple_of: int = Field(default=64, ge=1, le=4096)
    """Reserved tokens are added until the number of ids is a multiple of this, for fast matrix kernels."""
    min_frequency: int = Field(default=2, ge=1)
    """Minimum number of occurrences of a merged pair."""
    max_token_length: int | None = Field(default=None, ge=2)
    """Maximum length of a token, in bytes ("byte-fallback": characters)."""
    max_alphabet: int = Field(default=1_000, ge=1)
    """Maximum number of characters that become tokens, the most frequent first; for "byte-fallback" only."""

    @field_validator("digits", mode="before")
    @classmethod
    def _digits_as_text(cls, value: object) -> object:
        """Accept an integer, as recipes contain it."""
        return str(value) if type(value) is int else value

    def cut(self) -> PreTokenizer:
        """Return the splits of text under "byte-level"."""
        return pretokenizer(self.pretokenizer, self.digits)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the resolved configuration."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """A tokenizer and its training data."""

    tokenizer: Tokenizer
    config: TokenizerConfig
    n_documents: int
    n_bytes: int
    n_learnt: int
    """Number of learnt tokens, including the alphabet; all other ids are special."""

    def text_tokenizer(self) -> TextTokenizer:
        """Return the tokenizer in the form it has after saving and loading."""
        marks = self.config.special_tokens
        begin = marks.begin_of_text
        names = SpecialNames(begin, marks.end_of_text, marks.end_of_text, adds_begin=begin is not None)
        return TextTokenizer(json.loads(self.tokenizer.to_str()), names, marks.chat_template())


@dataclass(slots=True)
class _Counted:
    """Iterator over documents that counts them."""

    documents: Iterable[str]
    n_documents: int = 0
    n_bytes: int = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.documents:
            data = text.encode("utf-8", "replace")
            self.n_documents += 1
            self.n_bytes += len(data)
            yield data.decode()


@dataclass(slots=True)
class _Learnt:
    """Tokens in the order of their creation, and the pairs that form them."""

    tokens: list[str]
    merges: list[Piece] = field(default_factory=list)


def train_tokenizer(documents: Iterable[str], config: TokenizerConfig | None = None) -> TrainedTokenizer:
    """Train a tokenizer on documents.

    Raises:
        UserError: There is no text, or the special tokens leave no room in the vocabulary.
    """
    config = config or TokenizerConfig()
    n_special = len(config.special_tokens.names())
    if config.vocab_size - n_special <= len(BYTE_NAMES):
        raise UserError(
            f"vocab_size {config.vocab_size} leaves no room for merges: 256 bytes and {n_special} special tokens "
            f"come first; use at least {n_special + 300} or fewer reserved tokens"
        )
    counted = _Counted(documents)
    learnt = _learn(counted, config, config.vocab_size - n_special)
    if counted.n_bytes == 0:
        raise UserError(f"there is no text to learn from: all {counted.n_documents} documents are empty")
    tokenizer = assemble_tokenizer(learnt.tokens, learnt.merges, config)
    n_learnt = tokenizer.get_vocab_size() - len(tokenizer.get_added_tokens_decoder())
    return TrainedTokenizer(tokenizer, config, counted.n_documents, counted.n_bytes, n_learnt)


def _learn(documents: Iterable[str], config: TokenizerConfig, n_tokens: int) -> _Learnt:
    from tokenizers import Tokenizer, models

    is_bytes = config.kind == "byte-level"
    tokenizer = Tokenizer(models.BPE())
    cut = config.cut() if is_bytes else None
    normalizer = cut.build_normalizer() if cut else _blanks()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cut.build() if cut else _words(config.digits or "1")
    with panics_as_errors():
        tokenizer.train_from_iterator(documents, _trainer(config, n_tokens))
    model = json.loads(tokenizer.to_str())["model"]
    learnt = _Learnt(sorted(model["vocab"], key=model["vocab"].__getitem__), [(a, b) for a, b in model["merges"]])
    return learnt if is_bytes else _Learnt(learnt.tokens, _all_spellings(learnt))


def _trainer(config: TokenizerConfig, n_tokens: int) -> trainers.Trainer:
    from tokenizers import pre_tokenizers, trainers

    is_bytes = config.kind == "byte-level"
    return trainers.BpeTrainer(
        vocab_size=n_tokens,
        min_frequency=config.min_frequency,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if is_bytes else [],
        special_tokens=[] if is_bytes else list(BYTE_NAMES),
        # The library keeps tokens below its limit, not up to it (0.23.3).
        max_token_length=config.max_token_length and config.max_token_length + 1,
        limit_alphabet=len(BYTE_NAMES) if is_bytes else config.max_alphabet,
    )


def _all_spellings(learnt: _Learnt) -> list[Piece]:
    """Return every pair of tokens that forms a token, in the order of the formed tokens."""
    known = set(learnt.tokens) - set(BYTE_NAMES)
    return [
        (token[:i], token[i:])
        for token in learnt.tokens
        if token in known
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]


def assemble_tokenizer(tokens: Sequence[str], merges: Sequence[Piece], config: TokenizerConfig) -> Tokenizer:
    """Return the tokenizer of learnt tokens, with special tokens added and ids without gaps.

    A learnt token with the name of a special one (documents may contain `<think>`) is dropped.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    marks = config.special_tokens
    most_spares = marks.reserved(marks.n_reserved + config.pad_to_multiple_of)
    named = {*marks.controls(), *marks.frames(), *most_spares}
    tokens = [token for token in tokens if token not in named]
    merges = [(a, b) for a, b in merges if not named & {a, b, a + b}]
    n_spares = marks.n_reserved + -(len(tokens) + len(marks.names())) % config.pad_to_multiple_of
    spares = marks.reserved(n_spares)
    special = [*marks.controls(), *marks.frames(), *spares]
    order = [*special, *tokens] if config.special_placement == "start" else [*tokens, *special]
    is_bytes = config.kind == "byte-level"
    cut = config.cut() if is_bytes else None
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(order)},
            merges=merges,
            byte_fallback=not is_bytes,
            ignore_merges=cut is not None and cut.ignore_merges,
        )
    )
    normalizer = cut.build_normalizer() if cut else _blanks()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if cut is not None:
        tokenizer.pre_tokenizer = cut.build()
    tokenizer.decoder = (
        decoders.ByteLevel()
        if is_bytes
        else decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (*marks.controls(), *spares)])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in marks.frames()])
    _add_begin(tokenizer, marks.begin_of_text)
    return tokenizer


def _add_begin(tokenizer: Tokenizer, name: str | None) -> None:
    """Make `encode(text, add_special_tokens=True)` add the begin token at the start."""
    from tokenizers import processors

    if name is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{name} $A",
            pair=f"{name} $A {name} $B",
            special_tokens=[(name, tokenizer.token_to_id(name))],
        )


def _blanks() -> normalizers.Normalizer:
    from tokenizers import normalizers

    return normalizers.Replace(" ", BLANK)


def _words(digits: Digits) -> pre_tokenizers.PreTokenizer:
    """Return the splits for training "byte-fallback", on text in which blanks are already replaced.

    Raises:
        UserError: The grouping of digits is impossible when encoding, which has no splits.
    """
    from tokenizers import Regex, pre_tokenizers

    if digits not in ("1", "runs"):
        raise UserError(
            f"digits {digits!r} is impossible for kind 'byte-fallback', which does not split text to encode; "
            f"use '1' or 'runs', or kind 'byte-level'"
        )
    return pre_tokenizers.Split(Regex(_WORDS + (r"\p{N}" if digits == "1" else r"\p{N}+")), behavior="isolated")
