"""Limits of a reader per record; a record beyond them is Broken.

Crawled files are untrusted: a kilobyte can unpack to gigabytes, a line may never end. Every reader streams and
holds at most one record, so these limits bound its memory.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

MEBIBYTE = 1 << 20
EXPANSION_FLOOR = MEBIBYTE
"""Output bytes below which the expansion ratio is not checked: a small page of one repeated letter is harmless."""


class Limits(BaseModel, frozen=True, extra="forbid"):
    """Limits for each record."""

    max_record_bytes: int = Field(default=16 * MEBIBYTE, ge=1024)
    """Maximum bytes of a WARC record, a file or an unpacked HTTP body.

    Common Crawl truncates responses at 5 MiB (1 MiB before 2025).
    """
    max_line_bytes: int = Field(default=16 * MEBIBYTE, ge=1024)
    """Maximum bytes of a JSON line."""
    max_expansion: int = Field(default=200, ge=2)
    """Maximum output bytes per input byte.

    Text compresses 3 to 20 times, logs and tables up to about 100 times. The maximum of deflate is 1,032, that of
    zstd about 30,000.
    """

    def expands_too_far(self, n_packed: int, n_unpacked: int) -> bool:
        """Whether the output is too large for the input to be legitimate."""
        return n_unpacked > EXPANSION_FLOOR and n_unpacked > self.max_expansion * max(n_packed, 1)
