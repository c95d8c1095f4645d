"""Step `quota`: limits the megabytes of each source; keeps the documents whose texts have the smallest hashes.

Selection by hash favours no part of a file. It depends on the texts alone, not on the order or number of files,
nor on the number of processes. Adding or removing a document changes the selection only at its end. Selection
stops at the first document that does not fit; continuing with shorter ones would favour short documents.

Each source thus has a limit: the hash of the first document that does not fit. Every shard records hash and size
of its candidates, which are its own smallest hashes up to the quota plus one. The limit is computed from all
records (`modelstack.data.pipeline.quota_phases`). Memory is bounded by one quota, whatever the size of the source.

Letters: D documents of one source.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

Megabytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_MAX_SALT_BYTES = 16  # bytes; BLAKE2b's personalisation (RFC 7693, section 2.5)


class Quota(BaseModel, frozen=True, extra="forbid"):
    """Drops documents beyond the quota of their source. Reason: `over_quota`."""

    kind: Literal["quota"] = "quota"
    megabytes: dict[str, Megabytes] = {}
    """Quota by source, in millions of bytes of UTF-8 text. A listed source without documents is an error."""
    others: Megabytes | None = None
    """Quota of every source not listed; None: no limit."""
    salt: str = Field(default="", max_length=_MAX_SALT_BYTES, pattern=r"^[ -~]*$")
    """Salt of the hash; another salt selects other documents."""

    def n_bytes(self, source: str) -> int | None:
        """Return the quota of a source in bytes; None: no limit."""
        megabytes = self.megabytes.get(source, self.others)
        return None if megabytes is None else round(megabytes * 1e6)


class Smallest:
    """Hash and size of the documents of one source with the smallest hashes, up to its quota plus one document."""

    def __init__(self, n_bytes: int) -> None:
        """Start empty; `n_bytes` is the quota."""
        self._quota = n_bytes
        self._ranks_D: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._sizes_D: NDArray[np.int64] = np.empty(0, np.int64)
        self._new: list[tuple[int, int]] = []
        self._n_new_bytes = 0

    def add(self, rank: int, size: int) -> None:
        """Add a document by its hash and its size in bytes."""
        self._new.append((rank, size))
        self._n_new_bytes += size
        if self._n_new_bytes > self._quota and len(self._new) > len(self._ranks_D):
            self._settle()  # sort only when the new documents are as many as the sorted ones

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the sorted hashes and the sizes, both (D,)."""
        self._settle()
        return self._ranks_D, self._sizes_D

    def limit(self) -> int | None:
        """Return the hash of the first document that does not fit; None if all fit."""
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
    """Return the 64-bit hash that orders a text; equal texts are selected together or not at all."""
    # Any change here changes earlier selections, including the shipped corpus.
    digest = hashlib.blake2b(encoded(text), digest_size=16, person=salt.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big")


def encoded(text: str) -> bytes:
    """Return the UTF-8 of a text; lone surrogates are encoded too."""
    return text.encode("utf-8", "surrogatepass")
