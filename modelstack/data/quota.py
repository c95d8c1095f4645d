"""Of each source at most so many megabytes: the documents whose texts have the smallest hashes.

A choice by hash is a sample that favours no beginning of a file, and it depends on the texts alone: neither on the
order and number of files, nor on how many processes read them. A document that comes or goes changes the choice at
its end and nowhere else. The first one that does not fit ends it; to go on with shorter ones would favour those.

So each source has a limit, the hash of the first document that does not fit. A shard notes hash and size of those
that may be below it, its own smallest up to the quota and one more, and from what all note the limit is found
(`modelstack.data.pipeline.quota_phases`). Memory is for one quota, however large the source.

Letters: D documents of one source.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

Megabytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_MAX_SALT_BYTES = 16  # of BLAKE2b's personalisation (RFC 7693, section 2.5)


class Quota(BaseModel, frozen=True, extra="forbid"):
    """Drops of each source what is more than its quota, as `over_quota`."""

    kind: Literal["quota"] = "quota"
    megabytes: dict[str, Megabytes] = {}
    """By source: millions of bytes of text in UTF-8. One of which no document comes is an error."""
    others: Megabytes | None = None
    """Of each source that is not named; None: all of it."""
    salt: str = Field(default="", max_length=_MAX_SALT_BYTES, pattern=r"^[ -~]*$")
    """Another one, another choice."""

    def n_bytes(self, source: str) -> int | None:
        """Return a source's quota in bytes, None where it has none."""
        megabytes = self.megabytes.get(source, self.others)
        return None if megabytes is None else round(megabytes * 1e6)


class Smallest:
    """Hash and size of the documents of one source with the smallest hashes, up to its quota and one more."""

    def __init__(self, n_bytes: int) -> None:
        """Begin with none; `n_bytes` is the quota."""
        self._quota = n_bytes
        self._ranks_D: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._sizes_D: NDArray[np.int64] = np.empty(0, np.int64)
        self._new: list[tuple[int, int]] = []
        self._n_new_bytes = 0

    def add(self, rank: int, size: int) -> None:
        """Add a document: its hash, and its bytes."""
        self._new.append((rank, size))
        self._n_new_bytes += size
        if self._n_new_bytes > self._quota and len(self._new) > len(self._ranks_D):
            self._settle()  # not with each: sorting is for as many as there are already

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return hashes, sorted, and sizes, (D,) both."""
        self._settle()
        return self._ranks_D, self._sizes_D

    def limit(self) -> int | None:
        """Return the hash of the first document that does not fit; None where all do."""
        ranks_D, sizes_D = self.arrays()
        return int(ranks_D[-1]) if sizes_D.sum() > self._quota else None

    def _settle(self) -> None:
        ranks = np.concatenate([self._ranks_D, np.array([rank for rank, _ in self._new], np.uint64)])
        sizes = np.concatenate([self._sizes_D, np.array([size for _, size in self._new], np.int64)])
        self._new, self._n_new_bytes = [], 0
        order = np.lexsort((sizes, ranks))
        n = int(np.searchsorted(np.cumsum(sizes[order]), self._quota, "right")) + 1
        self._ranks_D, self._sizes_D = ranks[order][:n], sizes[order][:n]


def rank_of(text: str, salt: str) -> int:
    """Return the 64 bits of a text's hash that order it; equal texts are taken together, or none of them."""
    # Whatever is changed here changes what was chosen so far, the shipped corpus too.
    digest = hashlib.blake2b(encoded(text), digest_size=16, person=salt.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big")


def encoded(text: str) -> bytes:
    """Return a text's UTF-8; a lone surrogate is given the bytes it would have."""
    return text.encode("utf-8", "surrogatepass")
