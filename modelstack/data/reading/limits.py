"""How much a reader takes from one record before it calls the record broken.

A crawl is written by strangers: a kilobyte can unpack to gigabytes, a line can have no end. Every reader streams
and holds one record at most, so these bounds are the bounds of its memory.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

MEBIBYTE = 1 << 20
EXPANSION_FLOOR = MEBIBYTE
"""Output below which the ratio is not looked at: a small page of one repeated letter is no attack."""


class Limits(BaseModel, frozen=True, extra="forbid"):
    """Bounds that hold for each record."""

    max_record_bytes: int = Field(default=16 * MEBIBYTE, ge=1024)
    """Of a WARC record, a file or an unpacked HTTP body. Common Crawl cuts what it fetches at 5 MiB (1 MiB before
    2025)."""
    max_line_bytes: int = Field(default=16 * MEBIBYTE, ge=1024)
    """Of a line of JSON."""
    max_expansion: int = Field(default=200, ge=2)
    """Bytes out for a byte in. Text packs 3 to 20 times, logs and tables up to about 100; deflate's most is 1,032,
    zstd's some 30,000."""

    def expands_too_far(self, n_packed: int, n_unpacked: int) -> bool:
        """Whether so many bytes cannot honestly come from so few."""
        return n_unpacked > EXPANSION_FLOOR and n_unpacked > self.max_expansion * max(n_packed, 1)
