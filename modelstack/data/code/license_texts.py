"""Which licences a text holds: runs of words in common with the texts of known licences.

A licence is there when most of its runs of five words are: names of holders, line breaks and punctuation do not
matter. Of several that share most of their text (GPL and AGPL, MIT and X11) the one counts that explains most of
the text and lacks least of its own; then its runs are taken out, and others are looked for in the rest. The
fingerprints in `licenses.json` are of texts that came with packages; `fingerprints` makes them. Containment of
shingles: Broder 1997.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

FINGERPRINTS = Path(__file__).with_name("licenses.json")
N_WORDS = 5
N_HASHES = 400
"""Kept of a text: the smallest ones, a sample that does not depend on where a run stands."""
MIN_FOUND = 0.75
"""Share of a licence's runs. Between one and the next of a family it is 0.8 and less; of unrelated ones, 0.05."""
_ALL = 2**32
MIN_OWN = 0.1
"""Share of a licence's runs that no licence has which was found before."""
MAX_CHARS = 400_000
MAX_LICENSES = 20
_WORD = re.compile(r"[a-z0-9]+")
_NOT_TEXT = re.compile(r"copyright(?: ?\(c\)| ?©)?[ ,]+\d[^\n]{0,120}", re.IGNORECASE)
"""Lines that name who has the rights: other in each copy."""


def _hash(run: str) -> int:
    return zlib.crc32(run.encode())


_FAMILIES = (
    # Licences whose common text is worded in so many ways that a clause more or less is hidden. Each has a run
    # that those below it lack; the one with most clauses first.
    {
        "BSD-4-Clause": _hash("all advertising materials mentioning features"),
        "BSD-3-Clause": _hash("endorse or promote products derived"),
        "BSD-2-Clause": None,
    },
    {"ISC": _hash("permission notice appear in all"), "0BSD": None},
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A licence by the hashes of its runs of words."""

    license_id: str
    n_runs: int
    hashes: frozenset[int]

    @property
    def highest(self) -> int:
        """The hash up to which all are kept."""
        return max(self.hashes) if len(self.hashes) < self.n_runs else _ALL


def without_holders(text: str) -> str:
    """Return a text without the lines that name who has the rights."""
    return _NOT_TEXT.sub(" ", text)


def run_hashes(text: str) -> set[int]:
    """Return the hashes of all runs of words of a text."""
    words = _WORD.findall(without_holders(text[:MAX_CHARS]).lower())
    return {_hash(" ".join(words[i : i + N_WORDS])) for i in range(len(words) - N_WORDS + 1)}


def licenses_in(text: str) -> list[str]:
    """Return the ids of the licences whose text is in a text, the one that explains most of it first."""
    runs = run_hashes(text)
    candidates = [one for one in fingerprints() if len(one.hashes & runs) >= MIN_FOUND * len(one.hashes)]
    explained: list[Fingerprint] = []
    found: list[str] = []
    while len(found) < MAX_LICENSES and (best := _best(candidates, runs, explained)):
        name = best.license_id
        family = next((family for family in _FAMILIES if name in family), {name: None})
        name = next(one for one, clause in family.items() if clause is None or clause in runs)
        candidates = [one for one in candidates if one.license_id not in family]
        explained.append(best)
        found.append(name)
    return found


def _best(candidates: Sequence[Fingerprint], runs: set[int], found: Sequence[Fingerprint]) -> Fingerprint | None:
    """Return the licence that explains most of what no other one does; None: none has enough of its own there."""
    best, best_score = None, 0.0
    explained = frozenset().union(*(one.hashes for one in found))
    # Above it a run of a licence found may be left out of the sample, and would seem to be none of its own.
    limit = min((one.highest for one in found), default=_ALL)
    for one in candidates:
        sampled = [run for run in one.hashes if run <= limit]
        own = [run for run in sampled if run not in explained]
        if not own or len(own) < MIN_OWN * len(sampled):
            continue
        share = sum(run in runs for run in own) / len(own)
        # Runs that are there less those that are missing.
        score = (2 * share - 1) * one.n_runs * len(own) / len(sampled)
        if share >= MIN_FOUND and score > best_score:
            best, best_score = one, score
    return best


@cache
def fingerprints() -> tuple[Fingerprint, ...]:
    """Return the fingerprints of known licences; several of one licence are several wordings."""
    content = json.loads(FINGERPRINTS.read_text(encoding="utf-8"))
    return tuple(
        Fingerprint(
            entry["id"],
            entry["n_runs"],
            frozenset(np.frombuffer(base64.b64decode(entry["hashes"]), "<u4").tolist()),
        )
        for entry in content["licenses"]
    )
