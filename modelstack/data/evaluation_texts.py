"""Texts of evaluation files, and the words used to compare training data with them.

Words are runs of letters and digits in lower case, so punctuation and line breaks cannot hide a copy (Brown et
al. 2020, arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelstack.errors import UserError
from modelstack.zstd_files import open_unpacked

MAY_BE_TRAINED_ON = ("gsm8k_train.jsonl",)
"""Training sets that are stored in folders of evaluations."""
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text that comparisons with evaluations use."""
    return _WORD.findall(text.lower())


def word_runs(text: str, n_words: int) -> Iterator[str]:
    """Yield each run of `n_words` consecutive words of a text."""
    words = words_of(text)
    return (" ".join(words[i : i + n_words]) for i in range(len(words) - n_words + 1))


def evaluation_files(paths: Iterable[Path], may_be_trained_on: Collection[str] = MAY_BE_TRAINED_ON) -> list[Path]:
    """Return the given files and all JSON files below the given folders, except those that may be trained on.

    Args:
        paths: Files and folders.
        may_be_trained_on: Names of files and folders below `paths`; `*` matches anything.

    Raises:
        UserError: A path does not exist.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; name files and folders of evaluation sets")
        found = sorted(path.rglob("*.json*")) if path.is_dir() else [path]
        for file in found:
            parts = file.relative_to(path).parts if path.is_dir() else (file.name,)
            if not any(fnmatchcase(part, name) for part in parts for name in may_be_trained_on):
                files.append(file)
    return files


def texts_of_evaluation(path: Path) -> Iterator[str]:
    """Yield all texts of an evaluation file, such as questions and answers: JSON or JSONL, gzip or zstd.

    Raises:
        UserError: The file is neither JSON nor JSONL.
    """
    with open_unpacked(path) as file:
        data = file.read()
    content = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    try:
        yield from _texts(json.loads(content))
        return
    except ValueError:
        # Not a single JSON value; JSONL has one value per line.
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
