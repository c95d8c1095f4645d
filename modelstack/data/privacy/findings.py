"""What a detector found, and which of several findings that overlap counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["key", "email", "iban", "card", "ip", "phone"]
KINDS: tuple[Kind, ...] = ("key", "email", "iban", "card", "ip", "phone")
"""From the most certain form to the least: where two findings overlap, the earlier kind of these counts."""
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """A piece of a text that is private."""

    start: int
    end: int
    kind: Kind
    value: str
    """In one spelling for all that mean the same: digits without blanks, an address in lower case."""


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in the order of the text, none over another: the more certain kind, then the longer one."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda one: (one.start, -one.end)):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
        elif _RANK[finding.kind] < _RANK[kept[-1].kind]:
            kept[-1] = finding
    return kept
