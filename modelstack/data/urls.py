"""Step `url`: drops pages by address (lists of domains, URLs and words) and by the owner's robots directives.

The rules are RefinedWeb's (Penedo et al. 2023, arXiv 2306.01116, appendix G.1), applied in the order of
datatrove's URLFilter: domains, whole URLs, one hard word, several soft words, a strict word anywhere. No list is
shipped; RefinedWeb uses the list of the University of Toulouse (UT1, CC BY-SA).
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.errors import UserError

Words = tuple[str, ...] | Path
"""Entries, or a file with one entry per line (`#` starts a comment; gzip if the name ends in `.gz`)."""
_NO_LETTERS = re.compile(r"[^a-zA-Z0-9]+")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://")
_IP_LIKE = re.compile(r"\[.*|(?:0x[0-9a-f]+|\d+)(?:\.(?:0x[0-9a-f]+|\d+)){0,3}")


class UrlRules(BaseModel, frozen=True, extra="forbid"):
    """Drops pages by address. A document without URL can be dropped for `robots` only.

    Reasons: `domain`, `url`, `hard_word`, `soft_words`, `strict_word`, `ip_host`, `robots`.
    """

    kind: Literal["url"] = "url"
    domains: Words = ()
    """Blocked domains, including all their subdomains."""
    urls: Words = ()
    """Blocked URLs, with or without scheme; a trailing slash is ignored."""
    hard_words: Words = ()
    """Words of which one, as a whole word of the URL, suffices."""
    soft_words: Words = ()
    """Words of which `min_soft_words` different ones must occur as whole words of the URL."""
    min_soft_words: int = Field(default=2, ge=1)
    """Number of different `soft_words` that drops a document."""
    strict_words: Words = ()
    """Words that match anywhere in the URL after everything but letters and digits is removed."""
    drop_ip_hosts: bool = False
    """Whether to drop pages whose host is an IP address."""
    robots: tuple[str, ...] = ("noindex", "none", "noai", "tdm-reservation")
    """Directives in `metadata["robots"]` that drop a page; `none` means `noindex, nofollow`."""

    def build(self) -> Step:
        """Return the step; reads the lists.

        Raises:
            UserError: A list cannot be read.
        """
        domains = _HashedSet(host_of(f"//{entry.strip('.')}") for entry in _entries(self.domains))
        urls = _HashedSet(_address(entry) for entry in _entries(self.urls))
        hard, soft, strict = (
            frozenset(filter(None, (_NO_LETTERS.sub("", entry).lower() for entry in _entries(words))))
            for words in (self.hard_words, self.soft_words, self.strict_words)
        )
        strict_lengths = sorted({len(word) for word in strict})
        robots = frozenset(directive.lower() for directive in self.robots)

        def step(document: Document) -> str | None:
            if not robots.isdisjoint(document.metadata.get("robots", ())):
                return "robots"
            url = document.url
            if not url:
                return None
            host = host_of(url)
            if self.drop_ip_hosts and _IP_LIKE.fullmatch(host):
                return "ip_host"
            if domains and any(parent in domains for parent in _parents(host)):
                return "domain"
            if urls and _address(url) in urls:
                return "url"
            words = frozenset(_NO_LETTERS.split(url.lower()))
            if not words.isdisjoint(hard):
                return "hard_word"
            if len(words & soft) >= self.min_soft_words:
                return "soft_words"
            return "strict_word" if _holds_one(_NO_LETTERS.sub("", url).lower(), strict, strict_lengths) else None

        return step


def host_of(url: str) -> str:
    """Return the host of a URL in DNS form (lower case, punycode, no port, no trailing dot), "" without a host."""
    rest = url.replace("\\", "/")  # Browsers read backslashes as slashes.
    start = rest.find("//")
    authority = re.split(r"[/?#]", rest[start + 2 :], maxsplit=1)[0] if start >= 0 else ""
    host = authority.rpartition("@")[2].strip().lower()
    host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host  # Not a valid DNS name.


class _HashedSet:
    """Set of 64-bit text hashes, 8 bytes per entry: UT1 has 4.6 million domains, and every worker holds the set.

    The probability of a false match is the size of the set divided by 2^64.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._hashes = np.unique(np.fromiter((_hash(text) for text in texts if text), dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, text: str) -> bool:
        value = np.uint64(_hash(text))
        place = int(np.searchsorted(self._hashes, value))
        return place < len(self._hashes) and bool(self._hashes[place] == value)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _parents(host: str) -> Iterator[str]:
    """Yield a host and its parent domains."""
    while host:
        yield host
        host = host.partition(".")[2]


def _address(url: str) -> str:
    scheme = _SCHEME.match(url)
    rest = url[scheme.end() :] if scheme else url
    host, slash, path = rest.partition("/")
    return f"{host.lower()}{slash}{path}".rstrip("/")


def _holds_one(text: str, words: frozenset[str], lengths: list[int]) -> bool:
    return any(text[i : i + n] in words for n in lengths for i in range(len(text) - n + 1))


def _entries(words: Words) -> Iterator[str]:
    if not isinstance(words, Path):
        yield from (word.strip() for word in words if word.strip())
        return
    try:
        with (
            gzip.open(words, "rt", encoding="utf-8")
            if words.suffix == ".gz"
            else words.open(encoding="utf-8") as file
        ):
            yield from (line.strip() for line in file if line.strip() and not line.startswith("#"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"list {words} cannot be read: {error}; it must be a text file with one entry per line"
        ) from error
