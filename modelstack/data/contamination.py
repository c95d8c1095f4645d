"""The step that keeps evaluations out of training data: by runs of 13 words, and by most of an item's runs of 8.

A document is dropped where it has a run of 13 words in common with a text of an evaluation (Brown et al. 2020,
arXiv 2005.14165, appendix C); where it holds a whole text of 8 to 12 words, which has no such run; and where it
holds most of the runs of 8 words of a longer text, here and there changed. The reason names the evaluation, so the
report tells which one was found how often. Words are those of `evaluation_texts`.

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

from modelstack.data.dedup.shingles import shingle_hashes
from modelstack.data.documents import Document, Step
from modelstack.data.evaluation_texts import evaluation_files, texts_of_evaluation, words_of
from modelstack.errors import UserError

N_WORDS = 13
SHORT_WORDS = 8
"""Shorter texts are everyday phrases."""

Hashes = NDArray[np.uint64]
Rule = Literal["run", "short_text", "fuzzy"]


class Decontaminate(BaseModel, frozen=True, extra="forbid"):
    """Drops documents that repeat an evaluation."""

    kind: Literal["decontaminate"] = "decontaminate"
    evaluations: tuple[Path, ...] = Field(min_length=1)
    """Files of JSON or JSONL, gzip or zstd, or folders of them."""
    except_files: tuple[str, ...] = ()
    """Names of files and folders in such folders that may be trained on; `*` stands for anything."""
    fuzzy_share: float | None = Field(default=0.7, gt=0, le=1)
    """Of a text's distinct runs of 8 words, which a document must hold; None: exact runs alone count."""

    def build(self) -> Step:
        """Read the evaluations.

        Raises:
            UserError: one is missing, or no JSON.
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
        """Read the evaluations, as `build`."""
        return ContaminationIndex.of(
            (name, text) for name, path in self.files() for text in texts_of_evaluation(path)
        )

    def files(self) -> list[tuple[str, Path]]:
        """Return each evaluation's name and file; the name has the folder's where two files share one.

        Raises:
            UserError: one is missing, or there is none.
        """
        files = evaluation_files(self.evaluations, self.except_files)
        if not files:
            raise UserError("decontaminate: there is no JSON file in the folders named; name others")
        stems = [file.name.split(".")[0] for file in files]
        return [
            (stem if stems.count(stem) == 1 else f"{file.parent.name}_{stem}", file)
            for stem, file in zip(stems, files, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """What a document repeats."""

    evaluation: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class ContaminationIndex:
    """The runs of words of evaluations, by their hashes; 2^-64 is the chance that two runs are taken for one."""

    evaluations: tuple[str, ...]
    long_H: Hashes
    """Of runs of 13 words, sorted."""
    long_evaluation_H: NDArray[np.int64]
    runs_H: Hashes
    """Of runs of 8 words, sorted; a run of several texts stands there several times."""
    text_H: NDArray[np.int64]
    """Whose run it is."""
    n_runs_I: NDArray[np.int64]
    """Distinct runs of 8 words of a text."""
    is_short_I: NDArray[np.bool_]
    """Whether it has fewer than 13 words."""
    evaluation_I: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> ContaminationIndex:
        """Index texts; each comes with the name of its evaluation."""
        numbers: dict[str, int] = {}
        long: list[Hashes] = []
        runs: list[Hashes] = []
        evaluation_of_long: list[int] = []
        evaluation_of: list[int] = []
        is_short: list[bool] = []
        seen: set[tuple[str, str]] = set()
        for name, text in texts:
            words = _words(text)
            if (name, words) in seen or not (own := _hashes(words, SHORT_WORDS)).size:
                continue
            seen.add((name, words))
            number = numbers.setdefault(name, len(numbers))
            thirteen = _hashes(words, N_WORDS)
            long.append(thirteen)
            evaluation_of_long.append(number)
            runs.append(own)
            evaluation_of.append(number)
            is_short.append(not thirteen.size)
        long_H, order = _sorted(long)
        runs_H, runs_order = _sorted(runs)
        return cls(
            evaluations=tuple(numbers),
            long_H=long_H,
            long_evaluation_H=np.repeat(np.array(evaluation_of_long, np.int64), [len(h) for h in long])[order],
            runs_H=runs_H,
            text_H=np.repeat(np.arange(len(runs)), [len(h) for h in runs])[runs_order],
            n_runs_I=np.array([len(h) for h in runs], np.int64),
            is_short_I=np.array(is_short, bool),
            evaluation_I=np.array(evaluation_of, np.int64),
        )

    def n_texts(self, evaluation: str) -> int:
        """Return how many texts of an evaluation there are: distinct ones, of at least 8 words."""
        if evaluation not in self.evaluations:
            return 0
        return int(np.count_nonzero(self.evaluation_I == self.evaluations.index(evaluation)))

    def repeats_run(self, text: str, n_words: Literal[8, 13]) -> bool:
        """Whether a text has a run of 8 or of 13 words in common with any text of an evaluation."""
        index_H = self.long_H if n_words == N_WORDS else self.runs_H
        return _places(_hashes(_words(text), n_words), index_H).size > 0

    def find(self, text: str, fuzzy_share: float | None) -> Found | None:
        """Return what a text repeats, by the first rule that finds something; None where it is clean."""
        return next(self._found(text, fuzzy_share), None)

    def find_all(self, text: str, fuzzy_share: float | None) -> set[Found]:
        """Return all that a text repeats, by all rules."""
        return set(self._found(text, fuzzy_share))

    def _found(self, text: str, fuzzy_share: float | None) -> Iterator[Found]:
        words = _words(text)
        for number in self.long_evaluation_H[_places(_hashes(words, N_WORDS), self.long_H)]:
            yield Found(self.evaluations[number], "run")
        texts = self.text_H[_places(_hashes(words, SHORT_WORDS), self.runs_H)]
        candidates, n_held = np.unique(texts, return_counts=True)
        share = n_held / self.n_runs_I[candidates]
        is_short = self.is_short_I[candidates]
        for number in self.evaluation_I[candidates[is_short & (share == 1)]]:
            yield Found(self.evaluations[number], "short_text")
        if fuzzy_share is not None:
            for number in self.evaluation_I[candidates[~is_short & (share >= fuzzy_share)]]:
                yield Found(self.evaluations[number], "fuzzy")


def _words(text: str) -> str:
    return " ".join(words_of(text))


def _hashes(words: str, n_words: int) -> Hashes:
    """Return the distinct hashes of a text's runs of words, sorted."""
    pieces = list(shingle_hashes(words, n_words))
    return np.unique(np.concatenate(pieces)) if pieces else np.empty(0, np.uint64)


def _sorted(parts: Sequence[Hashes]) -> tuple[Hashes, NDArray[np.int64]]:
    whole = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    order = np.argsort(whole, kind="stable")
    return whole[order], order


def _places(some: Hashes, index_H: Hashes) -> NDArray[np.int64]:
    """Return where in a sorted index some hashes stand, each as often as it is there."""
    first, last = np.searchsorted(index_H, some, "left"), np.searchsorted(index_H, some, "right")
    hit = last > first
    ranges = [np.arange(a, b) for a, b in zip(first[hit], last[hit], strict=True)]
    return np.concatenate(ranges) if ranges else np.empty(0, np.int64)
