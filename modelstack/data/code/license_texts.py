"""Detection of licence texts by word shingles shared with the texts of known licences.

A licence is present when most of its runs of five words are; holders, line breaks and punctuation do not matter.
Licences can share most of their text (GPL and AGPL, MIT and X11). The best match is the licence that explains most
of the text and lacks the fewest of its own runs. Its runs are then excluded, and the search continues in the rest.
The fingerprints in `licenses.json` come from texts in installed packages; `fingerprints` creates them. Containment
of shingles: Broder 1997.
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
"""Number of hashes kept per text: the smallest ones, a sample independent of a run's position."""
MIN_FOUND = 0.75
"""Minimum share of a licence's runs that must occur. Relatives share at most 0.8, unrelated licences 0.05."""
_ALL = 2**32
MIN_OWN = 0.1
"""Minimum share of a licence's runs that no licence found before contains."""
MAX_CHARS = 400_000
MAX_LICENSES = 20
_WORD = re.compile(r"[a-z0-9]+")
_NOT_TEXT = re.compile(r"copyright(?: ?\(c\)| ?©)?[ ,]+\d[^\n]{0,120}", re.IGNORECASE)
"""Copyright lines, which name a different holder in each copy."""


def _hash(run: str) -> int:
    return zlib.crc32(run.encode())


_FAMILIES = (
    # Licences whose common text exists in many wordings, which hides one clause more or less. Each licence has a
    # run that # those below it lack; the one with most clauses comes first.
    {
        "BSD-4-Clause": _hash("all advertising materials mentioning features"),
        "BSD-3-Clause": _hash("endorse or promote products derived"),
        "BSD-2-Clause": None,
    },
    {"ISC": _hash("permission notice appear in all"), "0BSD": None},
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A licence as hashes of its word runs."""

    license_id: str
    n_runs: int
    hashes: frozenset[int]

    @property
    def highest(self) -> int:
        """Hash up to which all run hashes are kept."""
        return max(self.hashes) if len(self.hashes) < self.n_runs else _ALL


def without_holders(text: str) -> str:
    """Return a text without its copyright lines."""
    return _NOT_TEXT.sub(" ", text)


def run_hashes(text: str) -> set[int]:
    """Return the hashes of all word runs of a text."""
    words = _WORD.findall(without_holders(text[:MAX_CHARS]).lower())
    return {_hash(" ".join(words[i : i + N_WORDS])) for i in range(len(words) - N_WORDS + 1)}


def licenses_in(text: str) -> list[str]:
    """Return the ids of the licences contained in a text, best match first."""
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
    """Return the candidate that best explains runs not yet explained; None if no candidate has enough of them."""
    best, best_score = None, 0.0
    explained = frozenset().union(*(one.hashes for one in found))
    # Runs above the limit may be missing from the sample of a found licence, so they cannot be attributed.
    limit = min((one.highest for one in found), default=_ALL)
    for one in candidates:
        sampled = [run for run in one.hashes if run <= limit]
        own = [run for run in sampled if run not in explained]
        if not own or len(own) < MIN_OWN * len(sampled):
            continue
        share = sum(run in runs for run in own) / len(own)
        # Runs present minus runs missing.
        score = (2 * share - 1) * one.n_runs * len(own) / len(sampled)
        if share >= MIN_FOUND and score > best_score:
            best, best_score = one, score
    return best


@cache
def fingerprints() -> tuple[Fingerprint, ...]:
    """Return the fingerprints of known licences; a licence with several wordings has several fingerprints."""
    content = json.loads(FINGERPRINTS.read_text(encoding="utf-8"))
    return tuple(
        Fingerprint(
            entry["id"],
            entry["n_runs"],
            frozenset(np.frombuffer(base64.b64decode(entry["hashes"]), "<u4").tolist()),
        )
        for entry in content["licenses"]
    )
