"""Detection of e-mail and IP addresses.

The forms are those of datatrove's `PIIFormatter`: RFC 5322 dot-atoms before the "@", and dotted quads that
`ipaddress` calls global. This module needs no backtracking and rejects datatrove's false positives: package
versions (`lodash@4.17.21`, `1.2.3.4.5`), retina images (`icon@2x.png`), and the user name of git servers. It also
detects names in other alphabets, and IPv6.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

from modelstack.data.privacy.findings import Finding

IpScope = Literal["global", "not_local", "any"]
"""Scope of the IP addresses that count as private data.

- `global`: addresses that the registries call globally reachable, as in datatrove.
- `not_local`: also addresses reserved for documentation and tests (192.0.2.0/24), which pages use like real ones;
  excludes private networks, loopback and multicast.
- `any`: all addresses.
"""

_ATOM_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-"
_MAX_LOCAL = 256
"""Maximum characters before an "@"; RFC 5321 allows 64."""
_MAX_DOMAIN = 253
"""Maximum characters of a domain name, RFC 1035."""
_CASED = "\u00c0-\u024f\u0370-\u052f"
"""Latin, Greek and Cyrillic letters: scripts with blanks between words."""
_CASED_LETTER = re.compile(rf"[{_CASED}]")
_DOMAIN = re.compile(rf"[A-Za-z0-9{_CASED}][A-Za-z0-9{_CASED}.-]*")
_TOP_LEVEL = re.compile(rf"[A-Za-z{_CASED}]{{2,}}|xn--[a-z0-9-]+", re.IGNORECASE)
_LITERAL = re.compile(r"\[\d{1,3}(?:\.\d{1,3}){3}\]")
_NOT_PERSONS = frozenset({"git"})
"""Local parts that are not persons: repositories are written `git@host:path`."""
_IN_NO_NAME = re.compile(r"[{|}/`]")
"""Characters allowed in an atom but not found in names; before an address they end a path, choice or template."""
_PARAMETER = re.compile(
    r"(?:e?mail|from|to|b?cc|user(?:name)?|login|addr(?:ess)?|contact|author|recipient|reply[-_]?to|sender)=",
    re.IGNORECASE,
)
"""Parameter names with "=", which an atom may contain; before an address they belong to a query or a log."""
_RETINA = re.compile(r"\dx\.")


def emails(text: str) -> Iterator[Finding]:
    """Yield e-mail addresses, in time linear in the text."""
    done = 0
    at = text.find("@")
    while at >= 0:
        start = _local_start(text, done, at)
        end = _domain_end(text, at + 1) if start < at else at
        if end > at and text[start:at] not in _NOT_PERSONS:
            yield Finding(start, end, "email", text[start:end].lower())
            done = end
        else:
            done = at + 1
        at = text.find("@", done)


def _local_start(text: str, lowest: int, at: int) -> int:
    """Return the start of the local part before an "@"; `at` if there is none."""
    window = max(lowest, at - _MAX_LOCAL)
    start = window + len(text[window:at].rstrip(_ATOM_CHARS + "."))
    while start > window and _is_cased(text[start - 1]):
        start = window + len(text[window : start - 1].rstrip(_ATOM_CHARS + "."))
    if text[at - 1] == ".":
        return at
    dots = text.rfind("..", start, at)
    start = dots + 2 if dots >= 0 else start
    start += len(text[start:at]) - len(_IN_NO_NAME.split(text[start:at])[-1])
    start = _first_word(text, start, at)
    if parameter := _PARAMETER.match(text, start, at):
        start = _first_word(text, parameter.end(), at)
    # A name cannot start inside a word that was cut by the window or by the previous address.
    is_cut = start == window > 0 and (text[start - 1].isalnum() or text[start - 1] in _ATOM_CHARS)
    return at if is_cut else start


def _first_word(text: str, start: int, at: int) -> int:
    """Return the position of the first letter or digit, which skips quotation marks and bullets."""
    while start < at and not (text[start].isalnum() or text[start] == "_"):
        start += 1
    return start


def _is_cased(character: str) -> bool:
    """Whether a letter can start a name: its script has blanks between words, unlike Han."""
    return bool(_CASED_LETTER.match(character))


def _domain_end(text: str, start: int) -> int:
    """Return the end of the domain that starts at `start`; `start` - 1 if there is none."""
    literal = _LITERAL.match(text, start)
    if literal:
        return literal.end()
    run = _DOMAIN.match(text, start, start + _MAX_DOMAIN)
    if not run or len(run[0]) == _MAX_DOMAIN or _RETINA.match(text, start):
        return start - 1
    labels: list[str] = []
    for label in run[0].split("."):
        stripped = label.rstrip("-")
        if not stripped or label[0] == "-":
            break
        labels.append(stripped)
        if stripped != label:
            break
    while labels and not _TOP_LEVEL.fullmatch(labels[-1]):
        labels.pop()
    return start + len(".".join(labels)) if len(labels) > 1 else start - 1


_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(
    rf"(?<![\w.])(?<![A-Za-z][-/]){_OCTET}(?:\.{_OCTET}){{3}}(?!\w)(?!\.\w)(?!-[A-Za-z])(?!-\d{{1,3}}(?![\d.]))",
    re.ASCII,
)
_COLONS = re.compile(r":[0-9A-Fa-f:]{2,37}(?![\w:])(?!\.\d)", re.ASCII)
"""Rest of an IPv6 address after its first group; searched instead of that group because colons are rare."""
_FIRST_GROUP = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}$", re.ASCII)
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|build|firmware|driver|rev|revision|section|sections|chapter|clause|paragraph"
    r"|annex|table|figure|oid)|version|§)\W{0,4}$",
    re.IGNORECASE,
)
_N_BEFORE = 24
_ADDRESS_BEFORE = re.compile(
    r"(?:\b(?:ips?|ipv4|ping|dns|gateway)\b|address(?:es)?\b|//)\W{0,3}(?:(?:is|was|of)\W)?$", re.IGNORECASE
)
_ADDRESS_AFTER = re.compile(r"(?::\d{2,5}|/[123]?\d)\b", re.ASCII)
_HIGHEST_IN_VERSION = 40
"""Version and section numbers are below this; of global addresses, about one in 1,500 has four such octets."""
_LOCAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)
"""Loopback, private networks, links, groups and reserved ranges."""
_UNICAST = ipaddress.ip_network("2000::/3")
"""IPv6 range assigned for public unicast."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_addresses(text: str, scope: IpScope = "global") -> Iterator[Finding]:
    """Yield IPv4 and IPv6 addresses of a scope, in time linear in the text."""
    for match in _IPV4.finditer(text):
        address = ipaddress.ip_address(match[0])
        if is_in_scope(address, scope) and not _is_version(text, match):
            yield Finding(match.start(), match.end(), "ip", match[0])
    for match in _COLONS.finditer(text):
        first = _FIRST_GROUP.search(text[max(0, match.start() - 5) : match.start()])
        if not first:
            continue
        # In "2001:db8::1: it answers", the last colon belongs to the sentence.
        spelled = first[0] + (match[0] if match[0].endswith("::") else match[0].removesuffix(":"))
        try:
            address = ipaddress.IPv6Address(spelled)
        except ValueError:
            continue
        start = match.start() - len(first[0])
        if is_in_scope(address, scope) and _is_plausible_ipv6(spelled):
            yield Finding(start, start + len(spelled), "ip", str(address))


def is_in_scope(address: Address, scope: IpScope) -> bool:
    """Whether an address counts as private data; see `IpScope`."""
    if scope == "any":
        return True
    if scope == "not_local":
        return not any(address.version == network.version and address in network for network in _LOCAL)
    return address.is_global and (address.version == 4 or address in _UNICAST)


def _is_version(text: str, match: re.Match[str]) -> bool:
    """Whether a dotted quad is a version or section number."""
    before = text[max(0, match.start() - _N_BEFORE) : match.start()]
    if _VERSION_BEFORE.search(before):
        return True
    if any(int(octet) >= _HIGHEST_IN_VERSION for octet in match[0].split(".")):
        return False
    return not (_ADDRESS_BEFORE.search(before) or _ADDRESS_AFTER.match(text, match.end()))


def _is_plausible_ipv6(spelled: str) -> bool:
    """Whether the spelling is that of an address rather than a slice (`2::3`) or a scope (`abc::def`)."""
    groups = [group for group in spelled.split(":") if group]
    has_digits = any(character.isdigit() for character in spelled)
    return spelled == "::1" or (has_digits and len(groups) >= 2 and len(groups[0]) >= 3)
