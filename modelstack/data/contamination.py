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

from modelstack.data.dedup.shingles import shingle_hashes
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
    """Index of the word runs of evaluations by hash; two different runs collide with probability 2^-64."""

    evaluations: tuple[str, ...]
    long_H: Hashes
    """Hashes of 13-word runs, sorted."""
    long_evaluation_H: NDArray[np.int64]
    runs_H: Hashes
    """Hashes of 8-word runs, sorted; a run that several texts share is repeated."""
    text_H: NDArray[np.int64]
    """Text of each 8-word run."""
    n_runs_I: NDArray[np.int64]
    """Number of distinct 8-word runs per text."""
    is_short_I: NDArray[np.bool_]
    """Whether a text has fewer than 13 words."""
    evaluation_I: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> ContaminationIndex:
        """Index texts, given as pairs of the evaluation's name and the text."""
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
        """Return the number of distinct texts of an evaluation with at least 8 words."""
        if evaluation not in self.evaluations:
            return 0
        return int(np.count_nonzero(self.evaluation_I == self.evaluations.index(evaluation)))

    def repeats_run(self, text: str, n_words: Literal[8, 13]) -> bool:
        """Return whether a text shares a run of 8 or 13 words with any text of an evaluation."""
        index_H = self.long_H if n_words == N_WORDS else self.runs_H
        return _places(_hashes(_words(text), n_words), index_H).size > 0

    def find(self, text: str, fuzzy_share: float | None) -> Found | None:
        """Return the evaluation that a text repeats, by the first matching rule; None if there is none."""
        return next(self._found(text, fuzzy_share), None)

    def find_all(self, text: str, fuzzy_share: float | None) -> set[Found]:
        """Return all evaluations that a text repeats, by all rules."""
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
    """Return the distinct hashes of a text's word runs, sorted."""
    pieces = list(shingle_hashes(words, n_words))
    return np.unique(np.concatenate(pieces)) if pieces else np.empty(0, np.uint64)


def _sorted(parts: Sequence[Hashes]) -> tuple[Hashes, NDArray[np.int64]]:
    whole = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    order = np.argsort(whole, kind="stable")
    return whole[order], order


def _places(some: Hashes, index_H: Hashes) -> NDArray[np.int64]:
    """Return the positions of hashes in a sorted index, including repeated entries."""
    first, last = np.searchsorted(index_H, some, "left"), np.searchsorted(index_H, some, "right")
    hit = last > first
    ranges = [np.arange(a, b) for a, b in zip(first[hit], last[hit], strict=True)]
    return np.concatenate(ranges) if ranges else np.empty(0, np.int64)
