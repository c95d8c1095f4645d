"""Pages that their address tells against: lists of domains, addresses and words, and what their owners asked for.

RefinedWeb's rules (Penedo et al. 2023, arXiv 2306.01116, appendix G.1), decided in the order of datatrove's
URLFilter: domains, whole addresses, one hard word, several soft words, a strict word anywhere. No list is shipped;
the one RefinedWeb names is that of the University of Toulouse (UT1, CC BY-SA).
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
"""Entries, or the file that holds one a line (`#` begins a comment; gzip by the name)."""
_NO_LETTERS = re.compile(r"[^a-zA-Z0-9]+")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://")
_IP_LIKE = re.compile(r"\[.*|(?:0x[0-9a-f]+|\d+)(?:\.(?:0x[0-9a-f]+|\d+)){0,3}")


class UrlRules(BaseModel, frozen=True, extra="forbid"):
    """Drops pages by address; without one a document is kept, unless for `robots`.

    Reasons: `domain`, `url`, `hard_word`, `soft_words`, `strict_word`, `ip_host`, `robots`.
    """

    kind: Literal["url"] = "url"
    domains: Words = ()
    """Each with all its subdomains."""
    urls: Words = ()
    """With or without scheme; a slash at the end does not matter."""
    hard_words: Words = ()
    """One, as a whole word of the address, is enough."""
    soft_words: Words = ()
    """So many different ones as `min_soft_words` are needed."""
    min_soft_words: int = Field(default=2, ge=1)
    strict_words: Words = ()
    """Anywhere in the address, once all but letters and digits is left out of it."""
    drop_ip_hosts: bool = False
    """Pages whose host is a number."""
    robots: tuple[str, ...] = ("noindex", "none", "noai", "tdm-reservation")
    """Directives in `metadata["robots"]` that drop; `none` is `noindex, nofollow`."""

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
    """Return an address's host as DNS has it: lower case, `xn--`, no port, no last dot; "" if there is none."""
    rest = url.replace("\\", "/")  # As browsers read it.
    start = rest.find("//")
    authority = re.split(r"[/?#]", rest[start + 2 :], maxsplit=1)[0] if start >= 0 else ""
    host = authority.rpartition("@")[2].strip().lower()
    host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host  # No name that DNS has.


class _HashedSet:
    """Texts by 64 bits of their hash, 8 bytes each: UT1 has 4.6 million domains, every worker process has the set.

    A text that is not in it is taken for one that is at odds of the set's size in 2^64.
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
    """Return a host and the domains it is in."""
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
        raise UserError(f"list {words} cannot be read: {error}; it is text, one entry a line") from error
