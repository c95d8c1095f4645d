"""Words for requests that share their wording and differ in harm: `contrast_words.toml`, read once.

XSTest (Röttger et al., 2023) has such pairs written by hand; here they are made by rule. The same words serve the
fit of the request classifier (`tools.classifiers`) and the constitution experiment; both hold out the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelstack.files import read_toml

WORDS_FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class Misdeed:
    """A misdeed in three grammatical forms, with its MLCommons hazard."""

    do: str
    doing: str
    noun: str
    hazard: str


@dataclass(frozen=True, slots=True)
class Activity:
    """An everyday activity as an infinitive and as a gerund."""

    do: str
    doing: str


@dataclass(frozen=True, slots=True)
class Senses:
    """Completions of a verb with a harmless and a harmful sense."""

    harmless: tuple[str, ...]
    harmful: tuple[tuple[str, str], ...]
    """Each with its MLCommons hazard."""


_words = read_toml(WORDS_FILE, "word list")

MISDEEDS = tuple(
    Misdeed(*forms, hazard=hazard) for hazard, of_hazard in _words["misdeeds"].items() for forms in of_hazard
)
HELD_OUT_MISDEEDS = MISDEEDS[3::5]
"""Misdeeds kept out of every fit and training."""
FITTED_MISDEEDS = tuple(misdeed for misdeed in MISDEEDS if misdeed not in HELD_OUT_MISDEEDS)
ACTIVITIES = tuple(Activity(*forms) for forms in _words["activities"])
TWO_SENSES: Mapping[str, Senses] = {
    verb: Senses(tuple(senses["harmless"]), tuple((victim, hazard) for victim, hazard in senses["harmful"]))
    for verb, senses in _words["two_senses"].items()
}
HELD_OUT_VERBS = frozenset[str](_words["held_out_verbs"])
"""Verbs of `TWO_SENSES` kept out of every fit and training."""
PLACES: tuple[str, ...] = tuple(_words["places"])
COUNTRIES: tuple[str, ...] = tuple(_words["countries"])
