"""Decontamination of tool-use examples: drops examples that repeat an evaluation, counted by rule.

The rules, from common to strict:

- 13 consecutive words of any text (GPT-3's rule, `data.decontaminate`);
- a gold function's name together with 8 consecutive words of the request;
- 8 consecutive words of the request alone;
- a whole request of at least four words.

Generated examples additionally avoid function names of evaluations. The runs are those of
`modelstack.data.contamination`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelstack.data.contamination import N_WORDS, SHORT_WORDS, ContaminationIndex
from modelstack.data.evaluation_texts import evaluation_files, texts_of_evaluation, words_of
from modelstack.data.examples import Example

_FEWEST_WORDS = 4
RULES = ("13 words of a text", "name and 8 words", "8 words of the request", "whole request", "name of a function")


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Texts and function names of evaluation sets."""

    files: tuple[str, ...]
    n_texts: int
    index: ContaminationIndex
    whole: frozenset[str]
    """Texts of at least four words, as words."""
    names: frozenset[str]
    """Names of functions in lower case."""

    def rule_against(self, example: Example, *, names_are_kept: bool) -> str:
        """Return the rule that an example violates, or "" if it is clean.

        Args:
            example: The example.
            names_are_kept: Whether functions may share a name with an evaluation, since names such as
                `get_weather` are common.
        """
        requests = [m.content for m in example.messages if m.role == "user"]
        shares_name = any(call.name.lower() in self.names for call in example.calls)
        if self.index.repeat_run(_texts(example), N_WORDS):
            return RULES[0]
        if self.index.repeat_run(requests, SHORT_WORDS):
            return RULES[1] if shares_name else RULES[2]
        if any(_plain(text) in self.whole for text in requests):
            return RULES[3]
        shown = any(tool.name.lower() in self.names for tool in example.tools)
        return RULES[4] if shown and not names_are_kept else ""


@dataclass(slots=True)
class Cleaner:
    """Checks examples against evaluations and counts dropped ones."""

    evaluations: Evaluations
    dropped: Counter[str] = field(default_factory=Counter[str])
    n_seen: int = 0
    n_sharing_a_name: int = 0
    """Number of kept examples whose gold function shares a name with an evaluation."""

    def is_clean(self, example: Example, *, names_are_kept: bool) -> bool:
        """Return whether an example may be used, and count it."""
        self.n_seen += 1
        rule = self.evaluations.rule_against(example, names_are_kept=names_are_kept)
        if rule:
            self.dropped[rule] += 1
            return False
        self.n_sharing_a_name += any(call.name.lower() in self.evaluations.names for call in example.calls)
        return True

    def report(self) -> dict[str, Any]:
        """Return the counts for a manifest."""
        return {
            "files": list(self.evaluations.files),
            "evaluation_texts": self.evaluations.n_texts,
            "evaluation_function_names": len(self.evaluations.names),
            "examples_seen": self.n_seen,
            "dropped": {rule: self.dropped[rule] for rule in RULES},
            "kept_with_a_function_named_alike": self.n_sharing_a_name,
        }


def read_evaluations(paths: Iterable[Path]) -> Evaluations:
    """Read files and folders of evaluation sets.

    Raises:
        UserError: A path does not exist, or a file is neither JSON nor JSONL.
    """
    files = evaluation_files(paths)
    texts = [text for file in files for text in texts_of_evaluation(file)]
    return Evaluations(
        files=tuple(sorted({file.name for file in files})),
        n_texts=len(texts),
        index=ContaminationIndex.of(("", text) for text in texts),
        whole=frozenset(plain for text in texts if len((plain := _plain(text)).split()) >= _FEWEST_WORDS),
        names=frozenset(name.lower() for file in files for name in _function_names(file)),
    )


def _function_names(file: Path) -> Iterator[str]:
    """Yield the function names in a file: names of objects that also have parameters."""
    text = file.read_text(encoding="utf-8") if file.suffix != ".gz" else ""
    for line in text.splitlines():
        if '"parameters"' in line:
            try:
                yield from _named(json.loads(line))
            except ValueError:
                continue  # part of a JSON document over several lines, whose texts are compared anyway


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and "parameters" in node:
            yield node["name"]
        for value in node.values():
            yield from _named(value)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value)


def _texts(example: Example) -> Iterator[str]:
    for message in example.messages:
        if message.role != "system":
            yield message.content
    for tool in example.tools:
        yield tool.description
        for about in tool.parameters.get("properties", {}).values():
            if isinstance(about, dict):
                yield str(about.get("description", ""))
    if example.reply:
        yield example.reply


def _plain(text: str) -> str:
    return " ".join(words_of(text))
