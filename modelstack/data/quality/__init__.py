"""Published quality rules for web texts, each a preset with the thresholds of its paper.

| kind | source |
|---|---|
| gopher_quality, gopher_repetition | Rae et al. 2021, arXiv 2112.11446 |
| c4, c4_bad_words | Raffel et al. 2020, arXiv 1910.10683 |
| c4_paragraphs | Xue et al. 2021, arXiv 2010.11934 |
| fineweb_quality | Penedo et al. 2024, arXiv 2406.17557 |
| refinedweb_lines | Penedo et al. 2023, arXiv 2306.01116, and Li et al. 2024, arXiv 2406.11794 |
| dolma | Soldaini et al. 2024, arXiv 2402.00159 |
| word_list | lists provided by the user |

FineWeb's order is gopher_repetition, gopher_quality, c4 with `require_line_end = false`, fineweb_quality. In this
order all rules up to c4 share one split into words; later rules share it too if c4 removed nothing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modelstack.data.quality.c4 import C4, C4Paragraphs
from modelstack.data.quality.dolma import DolmaRules
from modelstack.data.quality.fineweb import FineWebQuality
from modelstack.data.quality.gopher_quality import GopherQuality
from modelstack.data.quality.gopher_repetition import GopherRepetition
from modelstack.data.quality.refinedweb import RefinedWebLines
from modelstack.data.quality.word_lists import C4BadWords, WordList

QualityRules = Annotated[
    GopherQuality
    | GopherRepetition
    | C4
    | C4Paragraphs
    | C4BadWords
    | FineWebQuality
    | RefinedWebLines
    | DolmaRules
    | WordList,
    Field(discriminator="kind"),
]
"""Any quality rule, discriminated by `kind`; the type of a recipe entry."""

__all__ = [
    "C4",
    "C4BadWords",
    "C4Paragraphs",
    "DolmaRules",
    "FineWebQuality",
    "GopherQuality",
    "GopherRepetition",
    "QualityRules",
    "RefinedWebLines",
    "WordList",
]
