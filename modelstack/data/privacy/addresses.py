"""E-mail and IP addresses.

The forms are datatrove's (`PIIFormatter`: RFC 5322 dot-atoms before the "@"; dotted quads that `ipaddress`
calls global), found without its backtracking, and with what its patterns take for an address left out: versions
of packages (`lodash@4.17.21`, `1.2.3.4.5`), retina images (`icon@2x.png`), the user of all git servers. Names
of other alphabets and IPv6 are found as well.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal

from modelstack.data.privacy.findings import Finding

IpScope = Literal["global", "not_local", "any"]
"""Which IP addresses are private data.

`global`: those that the registries call globally reachable, as in datatrove. `not_local`: also those set aside for
documentation, tests and other ends (192.0.2.0/24), which pages use as if they were real; not those of private
networks, of the machine itself, of groups. `any`: all.
"""

_ATOM_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-"
_MAX_LOCAL = 256
"""Characters before an "@"; RFC 5321 allows 64, and nobody has more than that."""
_MAX_DOMAIN = 253
"""Characters of a domain name, RFC 1035."""
_CASED = "\u00c0-\u024f\u0370-\u052f"
"""Latin, Greek and Cyrillic: their words stand between blanks."""
_CASED_LETTER = re.compile(rf"[{_CASED}]")
_DOMAIN = re.compile(rf"[A-Za-z0-9{_CASED}][A-Za-z0-9{_CASED}.-]*")
_TOP_LEVEL = re.compile(rf"[A-Za-z{_CASED}]{{2,}}|xn--[a-z0-9-]+", re.IGNORECASE)
_LITERAL = re.compile(r"\[\d{1,3}(?:\.\d{1,3}){3}\]")
_NOT_PERSONS = frozenset({"git"})
"""Before an "@": `git@host:path` is how a repository is written."""
_IN_NO_NAME = re.compile(r"[{|}/`]")
"""Atoms may hold them, names do not: before an address they end a path, a choice, a hole of a template."""
_PARAMETER = re.compile(
    r"(?:e?mail|from|to|b?cc|user(?:name)?|login|addr(?:ess)?|contact|author|recipient|reply[-_]?to|sender)=",
    re.IGNORECASE,
)
"""An atom may hold "=", but before an address in a query or a log it ends a name."""
_RETINA = re.compile(r"\dx\.")


def emails(text: str) -> Iterator[Finding]:
    """Find e-mail addresses, in time linear in the text."""
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
    """Return where the part before an "@" begins; `at` where there is none."""
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
    # No name begins in the middle of a word that was cut off here, by the window or by the address before.
    is_cut = start == window > 0 and (text[start - 1].isalnum() or text[start - 1] in _ATOM_CHARS)
    return at if is_cut else start


def _first_word(text: str, start: int, at: int) -> int:
    """Return where the first letter or digit stands: a name in quotation marks or after a bullet begins there."""
    while start < at and not (text[start].isalnum() or text[start] == "_"):
        start += 1
    return start


def _is_cased(character: str) -> bool:
    """Whether it is a letter with which a name may begin: of a script with blanks between words, unlike Han."""
    return bool(_CASED_LETTER.match(character))


def _domain_end(text: str, start: int) -> int:
    """Return where the domain that starts here ends; `start` - 1 where there is none."""
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
"""What follows the first group of an IPv6 address; looked for instead of the group, since colons are few."""
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
"""Numbers of versions and of sections stay below it; of global addresses, one of some 1,500 has four such."""
_LOCAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)
"""The machine itself, private networks, links, groups, and what is for no use."""
_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that has been given out to the public."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_addresses(text: str, scope: IpScope = "global") -> Iterator[Finding]:
    """Find IPv4 and IPv6 addresses of a scope, in time linear in the text."""
    for match in _IPV4.finditer(text):
        address = ipaddress.ip_address(match[0])
        if is_in_scope(address, scope) and not _is_version(text, match):
            yield Finding(match.start(), match.end(), "ip", match[0])
    for match in _COLONS.finditer(text):
        first = _FIRST_GROUP.search(text[max(0, match.start() - 5) : match.start()])
        if not first:
            continue
        # "2001:db8::1: it answers": the last colon is the sentence's.
        spelled = first[0] + (match[0] if match[0].endswith("::") else match[0].removesuffix(":"))
        try:
            address = ipaddress.IPv6Address(spelled)
        except ValueError:
            continue
        start = match.start() - len(first[0])
        if is_in_scope(address, scope) and _is_plausible_ipv6(spelled):
            yield Finding(start, start + len(spelled), "ip", str(address))


def is_in_scope(address: Address, scope: IpScope) -> bool:
    """Whether an address is private data; see `IpScope`."""
    if scope == "any":
        return True
    if scope == "not_local":
        return not any(address.version == network.version and address in network for network in _LOCAL)
    return address.is_global and (address.version == 4 or address in _UNICAST)


def _is_version(text: str, match: re.Match[str]) -> bool:
    """Whether a dotted quad is the number of a version or of a section."""
    before = text[max(0, match.start() - _N_BEFORE) : match.start()]
    if _VERSION_BEFORE.search(before):
        return True
    if any(int(octet) >= _HIGHEST_IN_VERSION for octet in match[0].split(".")):
        return False
    return not (_ADDRESS_BEFORE.search(before) or _ADDRESS_AFTER.match(text, match.end()))


def _is_plausible_ipv6(spelled: str) -> bool:
    """Whether it is spelled as addresses are, and not as a slice (`2::3`) or a scope (`abc::def`)."""
    groups = [group for group in spelled.split(":") if group]
    has_digits = any(character.isdigit() for character in spelled)
    return spelled == "::1" or (has_digits and len(groups) >= 2 and len(groups[0]) >= 3)
