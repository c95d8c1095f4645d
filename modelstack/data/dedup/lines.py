"""Lines or paragraphs that stand elsewhere too, removed but for the first: menus, licences, cookie notices.

CCNet (Wenzek et al. 2020, arXiv 1911.00359) does it for paragraphs, by 64 bits of a hash of the simplified text.
Stages: `write_line_keys` for each shard, `repeats.write_repeats` over all, `without_repeats` for each shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from modelstack.data.dedup.blocks import blocks
from modelstack.data.dedup.exact import key_of_text
from modelstack.data.dedup.key_files import KeyWriter
from modelstack.data.dedup.repeats import read_repeats
from modelstack.data.dedup.simplify import simplify, words_apart


class LinesConfig(BaseModel, frozen=True, extra="forbid"):
    """Repeated lines or paragraphs (CCNet, arXiv 1911.00359, its deduplication)."""

    kind: Literal["lines"] = "lines"
    unit: Literal["line", "paragraph"] = "paragraph"
    """What ends at a line break, or at an empty line."""
    simplified: bool = False
    """Whether case, digits, punctuation and accents are ignored, as CCNet does; white space is in any case."""
    min_chars: int = Field(default=1, ge=1)
    """Shorter ones stay: a "}" or a "Yes." is no copy of another."""

    @property
    def settings(self) -> str:
        """What two files of keys must share to be compared."""
        return self.model_dump_json()

    @property
    def separator(self) -> str:
        """What stands between two of them."""
        return "\n" if self.unit == "line" else "\n\n"

    def units(self, text: str) -> list[tuple[str, str]]:
        """Return a text's parts, each with what its key is of: "" where the part stays whatever else there is."""
        parts = text.split(self.separator)
        compared = map(simplify if self.simplified else words_apart, parts)
        return [
            (part, key if len(key) >= self.min_chars else "") for part, key in zip(parts, compared, strict=True)
        ]


def write_line_keys(texts: Iterable[str], out: Path, config: LinesConfig) -> int:
    """Write the keys of a shard's lines or paragraphs to a file, sorted; return how many there are."""
    with KeyWriter(out, config.settings, 1) as writer:
        for block in blocks(what for text in texts for _, what in config.units(text) if what):
            keys = np.array([key_of_text(what) for what in block], np.uint64)
            writer.add(keys[:, None], writer.n_documents + np.arange(len(block)))
            writer.count(len(block))
        return writer.n_documents


def without_repeats(texts: Iterable[str], repeats: Path, shard: int, config: LinesConfig) -> Iterator[str]:
    """Return a shard's texts without what stands in it or in a shard before; "" where nothing is left.

    Args:
        texts: The same as `write_line_keys` had.
        repeats: What `write_repeats` wrote.
        shard: Its number.
        config: As there.
    """
    positions, _ = read_repeats(repeats, shard)
    n = 0
    place = 0
    for text in texts:
        kept: list[str] = []
        for part, what in config.units(text):
            if what:
                is_repeat = place < len(positions) and positions[place] == n
                place += is_repeat
                n += 1
                if is_repeat:
                    continue
            kept.append(part)
        yield config.separator.join(kept)
