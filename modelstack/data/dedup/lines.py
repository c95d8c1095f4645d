"""Removal of lines or paragraphs that occurred before: menus, licences, cookie notices.

CCNet (Wenzek et al. 2020, arXiv 1911.00359) removes repeated paragraphs by 64-bit hashes of the simplified text.
Stages: `write_line_keys` per shard, `repeats.write_repeats` over all shards, `without_repeats` per shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from modelstack.data.dedup.exact import key_of_text
from modelstack.data.dedup.key_files import KeyWriter, blocks
from modelstack.data.dedup.repeats import read_repeats
from modelstack.data.dedup.simplify import simplify, words_apart


class LinesConfig(BaseModel, frozen=True, extra="forbid"):
    """Repeated lines or paragraphs (CCNet, arXiv 1911.00359, deduplication)."""

    kind: Literal["lines"] = "lines"
    unit: Literal["line", "paragraph"] = "paragraph"
    """Unit of comparison, delimited by a line break or by an empty line."""
    simplified: bool = False
    """Whether to ignore case, digits, punctuation and accents, as in CCNet; white space is always ignored."""
    min_chars: int = Field(default=1, ge=1)
    """Minimum characters of a compared unit; short ones such as "}" or "Yes." are kept."""

    @property
    def settings(self) -> str:
        """Configuration as JSON; only key files with equal settings are comparable."""
        return self.model_dump_json()

    @property
    def separator(self) -> str:
        """Separator of units."""
        return "\n" if self.unit == "line" else "\n\n"

    def units(self, text: str) -> list[tuple[str, str]]:
        """Return the units of a text, each with the text that is hashed; "" if the unit is always kept."""
        parts = text.split(self.separator)
        compared = map(simplify if self.simplified else words_apart, parts)
        return [
            (part, key if len(key) >= self.min_chars else "") for part, key in zip(parts, compared, strict=True)
        ]


def write_line_keys(texts: Iterable[str], out: Path, config: LinesConfig) -> int:
    """Write the sorted keys of a shard's lines or paragraphs to a file; return their number."""
    with KeyWriter(out, config.settings, 1) as writer:
        for block in blocks(compared for text in texts for _, compared in config.units(text) if compared):
            keys = np.array([key_of_text(compared) for compared in block], np.uint64)
            writer.add(keys[:, None], writer.n_documents + np.arange(len(block)))
            writer.count(len(block))
        return writer.n_documents


def without_repeats(texts: Iterable[str], repeats: Path, shard: int, config: LinesConfig) -> Iterator[str]:
    """Yield the texts of a shard without units that occurred before; "" if nothing remains.

    Args:
        texts: The texts passed to `write_line_keys`.
        repeats: Output folder of `write_repeats`.
        shard: Index of the shard.
        config: The configuration passed to `write_line_keys`.
    """
    positions, _ = read_repeats(repeats, shard)
    n = 0
    place = 0
    for text in texts:
        kept: list[str] = []
        for part, compared in config.units(text):
            if compared:
                is_repeat = place < len(positions) and positions[place] == n
                place += is_repeat
                n += 1
                if is_repeat:
                    continue
            kept.append(part)
        yield config.separator.join(kept)
