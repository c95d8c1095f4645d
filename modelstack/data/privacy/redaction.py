"""Placeholders for what is private: the same for the same value, counted in the order of a document."""

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
"""`example`: addresses and numbers that read on like real ones and are nobody's; `tag`: <EMAIL>, numbered when
there are several."""
_EXAMPLES: dict[str, tuple[str, ...]] = {
    # Of e-mail and IPv4 datatrove's, so that corpora mix; IPv6 of RFC 3849; phones kept free for fiction by the
    # North American plan. No issuer has cards that begin with 0, no country is XX.
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
_NOBODYS = {
    *(example for examples in _EXAMPLES.values() for example in examples),
    *(phone.replace("-", "") for phone in _EXAMPLES["phone"]),
    *(f"1{phone.replace('-', '')}" for phone in _EXAMPLES["phone"]),
}
_PLACEHOLDER = re.compile("|".join(re.escape(example) for examples in _EXAMPLES.values() for example in examples))
_MAX_PASSES = 8
"""A placeholder may free what a finding hid, so passes go on until nothing is found: nearly always, two."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without what was private in it."""

    text: str
    counts: dict[Kind, int]
    """Findings of each kind; none, no entry."""


def find(text: str, kinds: Collection[Kind] = KINDS, ip_scope: IpScope = "global") -> list[Finding]:
    """Return what is private in a text, in its order, without what a placeholder would be."""
    found = without_overlaps(_found(text, kinds, ip_scope))
    return _without_placeholders(text, found) if found else found


def redact(
    text: str, *, style: Style = "example", kinds: Collection[Kind] = KINDS, ip_scope: IpScope = "global"
) -> Redacted:
    """Return a text with placeholders for what is private in it; done again, it changes nothing."""
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
    """Leave out what is a placeholder or a piece of one."""
    ends = {match.start(): match.end() for match in _PLACEHOLDER.finditer(text)}
    starts = sorted(ends)

    def is_placeholder(finding: Finding) -> bool:
        before = bisect_right(starts, finding.start) - 1
        return before >= 0 and finding.end <= ends[starts[before]]

    return [finding for finding in found if finding.value not in _NOBODYS and not is_placeholder(finding)]


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
    """Which value has which placeholder; values are numbered by kind, in the order in which they came."""

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
