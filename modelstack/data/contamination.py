"""Removes documents that repeat evaluations, by runs of 13 words or most of a text's runs of 8 words.

A document is dropped in three cases. It shares a run of 13 words with a text of an evaluation (Brown et al.
2020, arXiv 2005.14165, appendix C). It contains a whole text of 8 to 12 words, which has no such run. It
contains most of the 8-word runs of a longer text, for example of a slightly changed copy. The reason names the
evaluation, so the report counts the hits of each. Words are those of `evaluation_texts`.

Letters: H hashes of runs, I texts of evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from modelstack.data.dedup.shingles import hashes_of_texts
from modelstack.data.documents import Document, Step
from modelstack.data.evaluation_texts import evaluation_files, texts_of_evaluation, words_of
from modelstack.errors import UserError

N_WORDS = 13
SHORT_WORDS = 8
"""Minimum number of words of a compared text; shorter ones are everyday phrases."""

Hashes = NDArray[np.uint64]
Rule = Literal["run", "short_text", "fuzzy"]


class Decontaminate(BaseModel, frozen=True, extra="forbid"):
    """Step that drops documents which repeat an evaluation."""

    kind: Literal["decontaminate"] = "decontaminate"
    evaluations: tuple[Path, ...] = Field(min_length=1)
    """JSON or JSONL files, plain, gzip or zstd, or folders of them."""
    except_files: tuple[str, ...] = ()
    """Names of files and folders below the given folders that may be trained on; `*` matches anything."""
    fuzzy_share: float | None = Field(default=0.7, gt=0, le=1)
    """Minimum share of a text's distinct 8-word runs in a document; None: only the exact rules apply."""

    def build(self) -> Step:
        """Read the evaluations and return the step.

        Raises:
            UserError: An evaluation is missing or not JSON.
        """
        index = self.index()

        def decontaminate(document: Document) -> str | None:
            found = index.find(document.text, self.fuzzy_share)
            if found is None:
                return None
            document.metadata["contamination"] = {"evaluation": found.evaluation, "rule": found.rule}
            return f"in_{found.evaluation}"

        return decontaminate

    def index(self) -> ContaminationIndex:
        """Read the evaluations and return their index; raises as `build`."""
        return ContaminationIndex.of(
            (name, text) for name, path in self.files() for text in texts_of_evaluation(path)
        )

    def files(self) -> list[tuple[str, Path]]:
        """Return the name and file of each evaluation; names include the folder if files share a name.

        Raises:
            UserError: A path is missing, or there are no files.
        """
        files = evaluation_files(self.evaluations, self.except_files)
        if not files:
            raise UserError("decontaminate: the given folders contain no JSON file; name others")
        stems = [file.name.split(".")[0] for file in files]
        return [
            (stem if stems.count(stem) == 1 else f"{file.parent.name}_{stem}", file)
            for stem, file in zip(stems, files, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """Evaluation that a document repeats, with the rule that found it."""

    evaluation: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class ContaminationIndex:
    """Index of the word runs of evaluations by hash; two different runs collide with probability 2^-64.

    Each run of 13 words contains runs of 8 words. A document without a known run of 8 words, which is nearly every
    document, therefore repeats nothing, and costs one look-up per word in a table of one byte each.
    """

    evaluations: tuple[str, ...]
    long: _Runs
    """13-word runs of the texts."""
    runs: _Runs
    """8-word runs of the texts."""
    n_runs_I: NDArray[np.int64]
    """Number of distinct 8-word runs per text."""
    is_short_I: NDArray[np.bool_]
    """Whether a text has fewer than 13 words."""
    evaluation_I: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> ContaminationIndex:
        """Index texts, given as pairs of the evaluation's name and the text."""
        distinct = list(dict.fromkeys((name, _words(text)) for name, text in texts))
        numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in distinct))}
        words = [own for _, own in distinct]
        long, runs = _Runs.of(words, N_WORDS), _Runs.of(words, SHORT_WORDS)
        return cls(
            evaluations=tuple(numbers),
            long=long,
            runs=runs,
            n_runs_I=np.bincount(runs.text_H, minlength=len(words)),
            is_short_I=np.bincount(long.text_H, minlength=len(words)) == 0,
            evaluation_I=np.array([numbers[name] for name, _ in distinct], np.int64),
        )

    def n_texts(self, evaluation: str) -> int:
        """Return the number of distinct texts of an evaluation with at least 8 words."""
        if evaluation not in self.evaluations:
            return 0
        number = self.evaluations.index(evaluation)
        return int(np.count_nonzero((self.evaluation_I == number) & (self.n_runs_I > 0)))

    def repeat_run(self, texts: Iterable[str], n_words: Literal[8, 13]) -> bool:
        """Return whether any of some texts shares a run of 8 or 13 words with a text of an evaluation."""
        runs = self.long if n_words == N_WORDS else self.runs
        return runs.texts_with_runs_of(map(_words, texts), n_words).size > 0

    def find(self, text: str, fuzzy_share: float | None) -> Found | None:
        """Return the evaluation that a text repeats, by the first matching rule; None if there is none."""
        return next(self._found(text, fuzzy_share), None)

    def find_all(self, text: str, fuzzy_share: float | None) -> set[Found]:
        """Return all evaluations that a text repeats, by all rules."""
        return set(self._found(text, fuzzy_share))

    def _found(self, text: str, fuzzy_share: float | None) -> Iterator[Found]:
        words = _words(text)
        texts = self.runs.texts_with_runs_of([words], SHORT_WORDS)
        if not texts.size:
            return
        for number in self.evaluation_I[self.long.texts_with_runs_of([words], N_WORDS)]:
            yield Found(self.evaluations[number], "run")
        candidates, n_held = np.unique(texts, return_counts=True)
        share = n_held / self.n_runs_I[candidates]
        is_short = self.is_short_I[candidates]
        for number in self.evaluation_I[candidates[is_short & (share == 1)]]:
            yield Found(self.evaluations[number], "short_text")
        if fuzzy_share is not None:
            for number in self.evaluation_I[candidates[~is_short & (share >= fuzzy_share)]]:
                yield Found(self.evaluations[number], "fuzzy")


@dataclass(frozen=True, slots=True)
class _Runs:
    """Distinct word runs of each text, by hash."""

    hash_H: Hashes
    """Sorted; a run that several texts share is repeated."""
    text_H: NDArray[np.int64]
    """Text of each run."""
    is_used: NDArray[np.bool_]
    """Whether any hash begins with the bits of the position: most others are rejected without a search."""

    @classmethod
    def of(cls, texts: Sequence[str], n_words: int) -> _Runs:
        """Index the runs of texts whose words are separated by single spaces."""
        parts = list(hashes_of_texts(texts, n_words))
        hash_H = np.concatenate([hashes for hashes, _ in parts] or [np.empty(0, np.uint64)])
        text_H = np.concatenate([of_part for _, of_part in parts] or [np.empty(0, np.int64)])
        order = np.argsort(hash_H, kind="stable")  # the texts of a hash stay in order
        hash_H, text_H = hash_H[order], text_H[order]
        is_new = np.ones(len(hash_H), bool)
        is_new[1:] = (hash_H[1:] != hash_H[:-1]) | (text_H[1:] != text_H[:-1])
        is_used = np.zeros(8 << len(hash_H).bit_length(), bool)
        is_used[_first_bits(hash_H, is_used.size)] = True
        return cls(hash_H[is_new], text_H[is_new], is_used)

    def texts_with_runs_of(self, others: Iterable[str], n_words: int) -> NDArray[np.int64]:
        """Return the texts that hold the distinct runs of other texts, by hash; a text once per run."""
        found = [
            hashes[self.is_used[_first_bits(hashes, self.is_used.size)]]
            for hashes, _ in hashes_of_texts(others, n_words)
        ]
        some = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)
        first, last = (np.searchsorted(self.hash_H, some, side) for side in ("left", "right"))
        ranges = [self.text_H[a:b] for a, b in zip(first, last, strict=True)]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)


def _first_bits(hashes: Hashes, size: int) -> Hashes:
    """Return the first bits of hashes, as positions in a table whose size is a power of two."""
    return hashes >> np.uint64(65 - size.bit_length())


def _words(text: str) -> str:
    return " ".join(words_of(text))
