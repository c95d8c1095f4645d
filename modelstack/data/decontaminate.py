"""Texts that repeat an evaluation set: a run of 13 words in common, as GPT-3's authors had it.

Words are runs of letters and digits in lower case, so neither punctuation nor line breaks hide a copy
(Brown et al. 2020, arXiv 2005.14165, appendix C). An item of fewer words is not seen by this.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modelstack.errors import UserError

N_WORDS = 13
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return a text's words, as all comparisons with evaluations take them."""
    return _WORD.findall(text.lower())


def word_runs(text: str, n_words: int = N_WORDS) -> Iterator[str]:
    """Return each run of so many words of a text."""
    words = words_of(text)
    return (" ".join(words[i : i + n_words]) for i in range(len(words) - n_words + 1))


def index_of(texts: Iterable[str]) -> frozenset[str]:
    """Return the runs of words that training texts must not hold."""
    return frozenset(run for text in texts for run in word_runs(text))


def is_contaminated(text: str, index: frozenset[str]) -> bool:
    """Whether a text holds one of the runs."""
    return any(run in index for run in word_runs(text))


def texts_of_evaluation(path: Path) -> Iterator[str]:
    """Return all texts of an evaluation file, questions, answers and descriptions: JSON or JSONL, gzip or not.

    Raises:
        UserError: It is neither.
    """
    data = path.read_bytes()
    content = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    try:
        yield from _texts(json.loads(content))
        return
    except ValueError:
        # Not one JSON value; JSONL is many, one a line.
        lines = [line for line in content.split("\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: neither JSON nor JSONL: {error}") from error
        yield from _texts(record)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
