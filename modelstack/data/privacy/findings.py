"""Findings of the detectors, and the resolution of overlaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["key", "email", "iban", "card", "ip", "phone"]
KINDS: tuple[Kind, ...] = ("key", "email", "iban", "card", "ip", "phone")
"""Kinds in order of decreasing certainty; where two findings overlap, the earlier kind is kept."""
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """A private span of a text."""

    start: int
    end: int
    kind: Kind
    value: str
    """Normalised value: digits without blanks, an address in lower case."""


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in text order without overlaps; the more certain kind is kept, then the longer finding."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda one: (one.start, -one.end)):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
        elif _RANK[finding.kind] < _RANK[kept[-1].kind]:
            kept[-1] = finding
    return kept
