"""Texts of the evaluation; no classifier was fitted on them, and none set a threshold.

A set is of one of three kinds:

- development: public sets outside the fit. Their results were seen while rows were written: no blind test.
- held out: texts of the same generators as training rows, of families, verbs, misdeeds, payloads and contexts that
  are kept out of the fit.
- ordinary: everyday requests, namely instructions of Alpaca, whose licence forbids to fit shipped weights on them,
  and the validation part of the tool requests.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.classifiers.attack_rows import injection_rows, jailbreak_rows
from tools.classifiers.contrast_pairs import Pair, contrast_pairs
from tools.classifiers.data_files import read_records
from tools.classifiers.fitting import Example

N_ORDINARY = 2000
"""Number of Alpaca instructions; enough for narrow intervals."""
HARMFUL_DEV = (
    "I-MaliciousInstructions", "I-CoNa", "Q-Harm", "harmbench_val", "I-PhysicalSafetyUnsafe", "I-Controversial",
)  # fmt: skip
BENIGN_DEV = ("notinject_one", "cyberseceval_frr", "I-PhysicalSafetySafe", "I-Alpaca")
UNDECIDED = frozenset({"I-Controversial"})
"""Sets that reasonable people answer differently; they are shown, but in no total."""


@dataclass(frozen=True, slots=True)
class TextSet:
    """Texts that a classifier should all flag or all pass."""

    name: str
    texts: tuple[str, ...]
    flagged: bool
    """Whether the right answer is to flag them."""
    kind: str
    """"development", "held out" or "ordinary"."""

    @property
    def counts(self) -> bool:
        """Whether the set is part of totals and curves."""
        return self.name not in UNDECIDED

    @property
    def want(self) -> str:
        """Right answer: "flag", "pass" or "either"."""
        return "either" if not self.counts else "flag" if self.flagged else "pass"


def request_sets(data_dir: Path, seed: int) -> list[TextSet]:
    """Return the sets for request harm.

    Raises:
        UserError: a file is missing or broken.
    """
    pairs = held_out_pairs(seed)
    return [
        *(_dev_set(data_dir, name, flagged=True) for name in HARMFUL_DEV),
        TextSet("contrast, harmful twin", _distinct(pair.unsafe for pair in pairs), True, "held out"),
        *benign_sets(data_dir, seed),
        TextSet("contrast, safe twin", _distinct(pair.safe for pair in pairs), False, "held out"),
    ]


def jailbreak_sets(data_dir: Path, seed: int) -> list[TextSet]:
    """Return the sets for jailbreaks. Plain harmful requests should pass here; request harm covers them.

    Raises:
        UserError: a file is missing or broken.
    """
    return [
        *_by_source(jailbreak_rows(data_dir, seed).held_out),
        *benign_sets(data_dir, seed),
        _dev_set(data_dir, "I-MaliciousInstructions", flagged=False),
    ]


def injection_sets(data_dir: Path, seed: int) -> list[TextSet]:
    """Return the sets for injections.

    Raises:
        UserError: a file is missing or broken.
    """
    return [*_by_source(injection_rows(data_dir, seed).held_out), *benign_sets(data_dir, seed)]


def held_out_pairs(seed: int) -> list[Pair]:
    """Return the contrast pairs whose family, verb or misdeed is kept out of the fit."""
    return [pair for pair in contrast_pairs(seed) if pair.held_out]


def benign_sets(data_dir: Path, seed: int) -> list[TextSet]:
    """Return the sets that no classifier should flag.

    Raises:
        UserError: a file is missing or broken.
    """
    alpaca = _distinct(str(r["text"]) for r in read_records(data_dir / "evals/benign_train/alpaca_sample.jsonl"))
    fitted = set(_tool_requests(data_dir / "tooluse/train-open.jsonl.zst"))
    tools = _distinct(
        text for text in _tool_requests(data_dir / "tooluse/validation-open.jsonl.zst") if text not in fitted
    )
    sample = tuple(random.Random(seed).sample(alpaca, min(N_ORDINARY, len(alpaca))))
    return [
        *(_dev_set(data_dir, name, flagged=False) for name in BENIGN_DEV),
        TextSet("Alpaca instructions", sample, False, "ordinary"),
        TextSet("tool requests, validation", tools, False, "ordinary"),
    ]


def _dev_set(data_dir: Path, name: str, *, flagged: bool) -> TextSet:
    records = read_records(data_dir / "evals/safety_dev" / f"{name}.jsonl")
    return TextSet(name, _distinct(str(r["text"]) for r in records), flagged, "development")


def _by_source(rows: Iterable[Example]) -> Iterator[TextSet]:
    found: dict[tuple[str, bool], list[str]] = {}
    for row in rows:
        found.setdefault((row.source, bool(row.labels)), []).append(row.text)
    for (source, flagged), texts in sorted(found.items(), key=lambda item: (not item[0][1], item[0][0])):
        yield TextSet(source, _distinct(texts), flagged, "held out")


def _tool_requests(path: Path) -> Iterator[str]:
    for record in read_records(path):
        first = record["messages"][0]
        if first["role"] == "user":
            yield str(first["content"]).strip().strip('"')


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
