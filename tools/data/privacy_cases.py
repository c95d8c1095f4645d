"""Precision and recall of private data on labelled cases: `python -m tools.data.privacy_cases`.

The cases in `privacy_cases.txt` are made up: numbers in the forms of many countries and issuers, and texts that
resemble them (versions, dates, ISBNs, hashes, order numbers, prices, coordinates, code). Detectors were written
with the cases in view. The figures show regressions; they do not predict the results on web text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.data.privacy.findings import KINDS, Finding
from modelstack.data.privacy.redaction import find

CASES = Path(__file__).with_name("privacy_cases.txt")
_LABEL = re.compile(r"⟦(?P<kind>[a-z]+)\|(?P<piece>[^⟧]*)⟧")


@dataclass(frozen=True, slots=True)
class Case:
    """A text and its private pieces: kind, first character, the character after the last."""

    text: str
    private: frozenset[tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of a kind: right findings, wrong findings, labels without a finding."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of findings that are correct."""
        return self.right / (self.right + self.wrong) if self.right else 0.0

    @property
    def recall(self) -> float:
        """Share of labels that were found."""
        return self.right / (self.right + self.missed) if self.right else 0.0


def read_cases(path: Path = CASES) -> list[Case]:
    """Read labelled cases."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_case(line) for line in lines if line and not line.startswith("#")]


def scores(cases: Sequence[Case]) -> dict[str, Score]:
    """Return the score of each kind; a finding is correct if it equals a label exactly."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for case in cases:
        found = {_label(finding) for finding in find(case.text)}
        right.update(kind for kind, _, _ in found & case.private)
        wrong.update(kind for kind, _, _ in found - case.private)
        missed.update(kind for kind, _, _ in case.private - found)
    return {kind: Score(right[kind], wrong[kind], missed[kind]) for kind in KINDS}


def faults(cases: Sequence[Case]) -> list[str]:
    """Return a line for each missed label and each wrong finding."""
    lines = []
    for case in cases:
        found = {_label(finding) for finding in find(case.text)}
        for kind, start, end in sorted(found ^ case.private, key=lambda label: label[1]):
            what = "missed" if (kind, start, end) in case.private else "wrong"
            lines.append(f"{what} {kind}: {case.text[start:end]!r} in {case.text!r}")
    return lines


def main() -> None:
    """Print precision and recall by kind, and each fault."""
    cases = read_cases()
    print(f"{len(cases)} cases, {sum(not case.private for case in cases)} of them without private data")
    print(f"{'kind':6} {'labels':>6} {'found':>6} {'precision':>9} {'recall':>6}")
    for kind, score in scores(cases).items():
        n_labels, n_found = score.right + score.missed, score.right + score.wrong
        print(f"{kind:6} {n_labels:6} {n_found:6} {score.precision:9.3f} {score.recall:6.3f}")
    for line in faults(cases):
        print(line)


def _case(line: str) -> Case:
    line = line.replace("·", "").replace("\\n", "\n")
    text = ""
    private = set()
    done = 0
    for match in _LABEL.finditer(line):
        text += line[done : match.start()]
        private.add((match["kind"], len(text), len(text) + len(match["piece"])))
        text += match["piece"]
        done = match.end()
    return Case(text + line[done:], frozenset(private))


def _label(finding: Finding) -> tuple[str, int, int]:
    return finding.kind, finding.start, finding.end


if __name__ == "__main__":
    main()
