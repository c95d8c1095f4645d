"""Placeholders for private data: equal values get equal placeholders, numbered in document order."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from modelstack.data.privacy.accounts import cards, ibans
from modelstack.data.privacy.addresses import IpScope, emails, ip_addresses
from modelstack.data.privacy.findings import KINDS, Finding, Kind, without_overlaps
from modelstack.data.privacy.phones import phones
from modelstack.data.privacy.secrets import secrets

Style = Literal["example", "tag"]
"""Style of placeholders.

`example`: realistic addresses and numbers that are reserved or invalid; `tag`: <EMAIL>, numbered if there are
several.
"""
_EXAMPLES: dict[str, tuple[str, ...]] = {
    # E-mail and IPv4 examples are datatrove's, so that corpora can be mixed. IPv6: RFC 3849. Phones: reserved for
    # fiction by the North American plan. No issuer uses prefix 0, no country is XX.
    "email": ("email@example.com", "firstname.lastname@example.org"),
    "ip": (
        *("22.214.171.124", "126.96.36.199", "188.8.131.52"),
        *("184.108.40.206", "220.127.116.11", "18.104.22.168"),
    ),
    "ipv6": ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"),
    "phone": ("202-555-0101", "202-555-0102", "202-555-0103", "202-555-0104", "202-555-0105", "202-555-0106"),
    "card": ("0000 0000 0000 0000",),
    "iban": ("XX00 0000 0000 0000 0000",),
    "key": ("EXAMPLE_KEY",),
}
_TAGS: dict[str, str] = {
    "email": "EMAIL",
    "ip": "IP_ADDRESS",
    "ipv6": "IP_ADDRESS",
    "phone": "PHONE",
    "card": "CARD",
    "iban": "IBAN",
    "key": "KEY",
}
_EXAMPLE_VALUES = {
    *(example for examples in _EXAMPLES.values() for example in examples),
    *(phone.replace("-", "") for phone in _EXAMPLES["phone"]),
    *(f"1{phone.replace('-', '')}" for phone in _EXAMPLES["phone"]),
}
_PLACEHOLDER = re.compile("|".join(re.escape(example) for examples in _EXAMPLES.values() for example in examples))
_MAX_PASSES = 8
"""Maximum passes.

A placeholder may expose another finding, so passes repeat until nothing is found, usually two.
"""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text with its private data replaced."""

    text: str
    counts: dict[Kind, int]
    """Number of findings by kind; kinds without findings are absent."""


def find(text: str, kinds: Collection[Kind] = KINDS, ip_scope: IpScope = "global") -> list[Finding]:
    """Return the private data in a text in order, ignoring placeholders."""
    found = without_overlaps(_found(text, kinds, ip_scope))
    return _without_placeholders(text, found) if found else found


def redact(
    text: str, *, style: Style = "example", kinds: Collection[Kind] = KINDS, ip_scope: IpScope = "global"
) -> Redacted:
    """Return a text with placeholders for private data; idempotent."""
    counts: Counter[Kind] = Counter()
    placeholders = _Placeholders(style)
    for _ in range(_MAX_PASSES):
        findings = find(text, kinds, ip_scope)
        if not findings:
            break
        counts.update(finding.kind for finding in findings)
        text = placeholders.put(text, findings)
    return Redacted(text, dict(counts))


def _without_placeholders(text: str, found: list[Finding]) -> list[Finding]:
    """Remove findings that are a placeholder or part of one."""
    ends = {match.start(): match.end() for match in _PLACEHOLDER.finditer(text)}
    starts = sorted(ends)

    def is_placeholder(finding: Finding) -> bool:
        before = bisect_right(starts, finding.start) - 1
        return before >= 0 and finding.end <= ends[starts[before]]

    return [finding for finding in found if finding.value not in _EXAMPLE_VALUES and not is_placeholder(finding)]


def _found(text: str, kinds: Collection[Kind], ip_scope: IpScope) -> Iterator[Finding]:
    if "key" in kinds:
        yield from secrets(text)
    if "email" in kinds:
        yield from emails(text)
    if "iban" in kinds:
        yield from ibans(text)
    if "card" in kinds:
        yield from cards(text)
    if "ip" in kinds:
        yield from ip_addresses(text, ip_scope)
    if "phone" in kinds:
        yield from phones(text)


class _Placeholders:
    """Placeholders by value; values are numbered by kind in order of appearance."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._numbers: dict[str, dict[str, int]] = {}

    def put(self, text: str, findings: list[Finding]) -> str:
        names = [self._numbered(finding) for finding in findings]
        pieces: list[str] = []
        done = 0
        for finding, (name, number) in zip(findings, names, strict=True):
            pieces += [text[done : finding.start], self._placeholder(name, number)]
            done = finding.end
        return "".join([*pieces, text[done:]])

    def _numbered(self, finding: Finding) -> tuple[str, int]:
        name = "ipv6" if finding.kind == "ip" and ":" in finding.value else finding.kind
        if self._style == "tag" and name == "ipv6":
            name = "ip"
        numbers = self._numbers.setdefault(name, {})
        return name, numbers.setdefault(finding.value, len(numbers))

    def _placeholder(self, name: str, number: int) -> str:
        if self._style == "tag":
            several = len(self._numbers[name]) > 1
            return f"<{_TAGS[name]}_{number + 1}>" if several else f"<{_TAGS[name]}>"
        examples = _EXAMPLES[name]
        return examples[number % len(examples)]
