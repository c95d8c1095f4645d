"""The corpus that ships with the package: JSON lines in one file for each domain.

A record has the fields text, source, license and url. `SOURCES.md` beside the files credits the sources, `card.md`
is the data card; `tools.corpus.build` writes all of them.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED_CORPUS = Path(__file__).parent / "corpus"
SUFFIX = ".jsonl.zst"


def domain_file(domain: str) -> Path:
    """Return the file of a domain ("stories", "textbooks", ...)."""
    return SHIPPED_CORPUS / f"{domain}{SUFFIX}"
