"""Comparison of tokenizers on the same text: the measurement; `report_output` displays it.

For a fair comparison, use text that none of them was trained on as far as known, the same documents (so that
ratios of tokens are paired), and equal sizes of vocabulary. A larger vocabulary always needs fewer tokens and
costs more in the embedding. It is therefore reported both unchanged and reduced to the size of the first
(`cut_down`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from modelstack.errors import UserError
from modelstack.tokenizer import measures
from modelstack.tokenizer.cut_down import cut_down
from modelstack.tokenizer.documents import Document
from modelstack.tokenizer.measures import DigitSplit, Encoded, Interval
from modelstack.tokenizer.text_tokenizer import TextTokenizer

ALL = "all"
Kind = Literal["all", "domain", "language"]
_Group = tuple[Kind, str, NDArray[np.bool_]]
"""A set of documents: its kind, its name, and the mask of its members among N documents."""
SMOLLM2_BODY = 106_203_456
"""Parameters of SmolLM2-135M without its embedding (134,515,008 - 49,152 x 576)."""
SPEED_BYTES = 4_000_000
"""Bytes of text for the measurement of speed."""


class CostModel(BaseModel):
    """The model whose embedding size the vocabulary determines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 576
    tied: bool = True
    """Whether input and output share one embedding."""
    body_parameters: int = SMOLLM2_BODY
    """Number of parameters without the embedding."""


class GroupMeasures(BaseModel):
    """Measures of one tokenizer on the documents of one domain or language."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    name: str
    n_documents: int
    n_bytes: int
    n_tokens: int
    n_words: int
    bytes_per_token: Interval | None
    tokens_per_word: Interval | None
    whole_words: Interval | None
    """Share of words that are a single token."""
    tokens_to_first: Interval | None
    """Its tokens divided by those of the first tokenizer, paired by document; below 1 it needs fewer."""


class TokenizerMeasures(BaseModel):
    """All measures of one tokenizer."""

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str
    n_ids: int
    n_special: int
    groups: tuple[GroupMeasures, ...]
    parity: dict[str, Interval]
    """Tokens of each language divided by those of the base language, on the same lines."""
    renyi_efficiency: float
    unseen_share: float
    rare_share: float
    longest_token: str
    longest_token_bytes: int
    n_cut_characters: int
    """Number of tokens that begin or end inside a character."""
    digits: tuple[DigitSplit, ...]
    round_trip_failures: int
    """Number of documents that are not decoded to the same bytes."""
    embedding_parameters: int
    share_of_model: float
    megabytes_per_second: float
    """Speed of `encode_batch` on content, on this machine."""

    def group(self, kind: Kind = "all", name: str = ALL) -> GroupMeasures:
        """Return the measures of one domain or language, or of all documents."""
        return next(group for group in self.groups if (group.kind, group.name) == (kind, name))


class Report(BaseModel):
    """The measures of several tokenizers on one text."""

    model_config = ConfigDict(frozen=True)

    tokenizers: tuple[TokenizerMeasures, ...]
    cost: CostModel
    text: dict[str, int]
    """Bytes of each domain."""
    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Text:
    """The documents, and data that are the same for every tokenizer."""

    texts: list[str]
    words: list[Counter[str]]
    groups: list[_Group]


def build_report(
    tokenizers: Mapping[str, TextTokenizer],
    documents: Sequence[Document],
    *,
    parallel: Mapping[str, Sequence[str]] | None = None,
    base_language: str = "en",
    cost: CostModel | None = None,
    equal_size: bool = True,
    seed: int = 0,
) -> Report:
    """Measure tokenizers on documents; the others are compared with the first one.

    Args:
        tokenizers: Tokenizers by their names in the report.
        documents: Text that none of them was trained on.
        parallel: The same lines in several languages.
        base_language: The language in `parallel` that the others are compared with.
        cost: The model whose embedding size is reported.
        equal_size: Whether larger vocabularies are also reported reduced to the size of the first.
        seed: Seed of the bootstrap and of the random numbers whose splits are measured.

    Raises:
        UserError: There is no text, or the parallel text has no base language or unequal numbers of lines.
    """
    if not any(document.text for document in documents):
        raise UserError("there is no text to measure on; the held-out share of few documents may be empty")
    if parallel:
        _check_parallel(parallel, base_language)
    cost = cost or CostModel()
    shown = _with_equal_sizes(tokenizers) if equal_size else dict(tokenizers)
    text = _prepare(documents)
    measured: list[TokenizerMeasures] = []
    first: Encoded | None = None
    for name, tokenizer in shown.items():
        ids = tokenizer.encode_batch(text.texts)
        encoded = measures.count_encoded(text.texts, text.words, ids, tokenizer.encode_batch)
        first = first or encoded
        groups = tuple(_group(*group, encoded, first, seed) for group in text.groups)
        parity = _parity(tokenizer, parallel, base_language, seed) if parallel else {}
        measured.append(_measure(name, tokenizer, text.texts, ids, groups, parity, cost, seed))
    sizes = {group.name: group.n_bytes for group in measured[0].groups if group.kind == "domain"}
    return Report(tokenizers=tuple(measured), cost=cost, text=sizes, seed=seed, notes=_notes(tokenizers, measured))


def _with_equal_sizes(tokenizers: Mapping[str, TextTokenizer]) -> dict[str, TextTokenizer]:
    shown: dict[str, TextTokenizer] = {}
    size = len(next(iter(tokenizers.values())).vocabulary)
    for name, tokenizer in tokenizers.items():
        shown[name] = tokenizer
        if len(tokenizer.vocabulary) > size:
            shown[f"{name} cut to {size:,}"] = cut_down(tokenizer, size)
    return shown


def _prepare(documents: Sequence[Document]) -> _Text:
    domains = np.array([document.domain for document in documents])
    languages = np.array([document.language or "" for document in documents])
    groups: list[_Group] = [("all", ALL, np.ones(len(documents), dtype=bool))]
    kinds: list[tuple[Kind, NDArray[np.str_]]] = [("domain", domains), ("language", languages)]
    for kind, names in kinds:
        groups.extend((kind, str(name), names == name) for name in np.unique(names) if name)
    texts = [document.text for document in documents]
    return _Text(texts, [measures.words_of(text) for text in texts], groups)


def _group(
    kind: Kind,
    name: str,
    chosen: NDArray[np.bool_],
    encoded: Encoded,
    first: Encoded,
    seed: int,
) -> GroupMeasures:
    own, other = encoded.of(chosen), first.of(chosen)
    return GroupMeasures(
        kind=kind,
        name=name,
        n_documents=int(chosen.sum()),
        n_bytes=int(own.n_bytes.sum()),
        n_tokens=int(own.n_tokens.sum()),
        n_words=int(own.n_words.sum()),
        bytes_per_token=measures.ratio_interval(own.n_bytes, own.n_tokens, seed=seed),
        tokens_per_word=measures.ratio_interval(own.n_word_tokens, own.n_words, seed=seed),
        whole_words=measures.ratio_interval(own.n_whole_words, own.n_words, seed=seed),
        tokens_to_first=measures.ratio_interval(own.n_tokens, other.n_tokens, seed=seed),
    )


def _measure(
    name: str,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    groups: tuple[GroupMeasures, ...],
    parity: dict[str, Interval],
    cost: CostModel,
    seed: int,
) -> TokenizerMeasures:
    vocabulary = tokenizer.vocabulary
    ordinary = {i: data for i, data in enumerate(vocabulary.token_bytes) if i not in vocabulary.special_ids}
    longest = max(ordinary.values(), key=len)
    counts = measures.token_counts(ids, len(vocabulary))
    n_embedding = measures.embedding_parameters(len(vocabulary), cost.width, tied=cost.tied)
    return TokenizerMeasures(
        name=name,
        fingerprint=vocabulary.fingerprint,
        n_ids=len(vocabulary),
        n_special=len(vocabulary.special_ids),
        groups=groups,
        parity=parity,
        renyi_efficiency=measures.renyi_efficiency(counts),
        unseen_share=measures.seldom_share(counts, 1, vocabulary.special_ids),
        rare_share=measures.seldom_share(counts, measures.RARE, vocabulary.special_ids),
        longest_token=longest.decode("utf-8", "replace"),
        longest_token_bytes=len(longest),
        n_cut_characters=measures.cuts_characters(ordinary),
        digits=tuple(measures.digit_splits(tokenizer.encode_batch, vocabulary.token_bytes, seed=seed)),
        round_trip_failures=sum(
            tokenizer.decode_bytes(document) != text.encode("utf-8", "replace")
            for text, document in zip(texts, ids, strict=True)
        ),
        embedding_parameters=n_embedding,
        share_of_model=n_embedding / (n_embedding + cost.body_parameters),
        megabytes_per_second=_speed(tokenizer, texts),
    )


def _speed(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    chosen: list[str] = []
    size = 0
    for text in texts:
        if size >= SPEED_BYTES:
            break
        chosen.append(text)
        size += len(text.encode("utf-8", "replace"))
    start = time.perf_counter()
    tokenizer.encode_batch(chosen)
    return size / 1e6 / (time.perf_counter() - start)


def _parity(
    tokenizer: TextTokenizer, parallel: Mapping[str, Sequence[str]], base_language: str, seed: int
) -> dict[str, Interval]:
    counts = {
        language: np.array([len(ids) for ids in tokenizer.encode_batch(list(lines))])
        for language, lines in parallel.items()
    }
    intervals = {
        language: measures.ratio_interval(n_tokens, counts[base_language], seed=seed)
        for language, n_tokens in counts.items()
        if language != base_language
    }
    return {language: interval for language, interval in intervals.items() if interval is not None}


def _check_parallel(parallel: Mapping[str, Sequence[str]], base_language: str) -> None:
    if base_language not in parallel:
        raise UserError(f"the parallel text has no {base_language!r}, only {', '.join(sorted(parallel))}")
    n_lines = {language: len(lines) for language, lines in parallel.items()}
    other = next((language for language, n in n_lines.items() if n != n_lines[base_language]), None)
    if other is not None or not n_lines[base_language]:
        raise UserError(
            f"parallel text needs the same lines in every language: {base_language} has {n_lines[base_language]}"
            + (f", {other} has {n_lines[other]}" if other else "")
        )


def _notes(tokenizers: Mapping[str, TextTokenizer], measured: Sequence[TokenizerMeasures]) -> tuple[str, ...]:
    """Return the notes that readers need for a fair comparison."""
    first = measured[0]
    others = [name for name, tokenizer in tokenizers.items() if len(tokenizer.vocabulary) != first.n_ids]
    notes = []
    if others:
        notes.append(
            f"{', '.join(others)}: other size than {first.name} ({first.n_ids:,} ids). A larger vocabulary "
            f"always needs fewer tokens: compare rows of equal size, and models by bits per byte, never by "
            f"loss per token."
        )
    if any(each.round_trip_failures for each in measured):
        notes.append("Documents not decoded to the same bytes: the tokenizer normalises text, or lacks bytes.")
    notes.append("Text from the sources that a tokenizer was trained on favours it, held out or not.")
    notes.append("Unseen and rare tokens depend on the size of the text: compare them only within a report.")
    return tuple(notes)
