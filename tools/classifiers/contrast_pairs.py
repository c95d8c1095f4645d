"""Contrast pairs: a harmful request and a harmless twin with the same words in it.

A classifier of words learns that "kill" is harmful and flags a question about a stuck process. Pairs prevent that:
both twins name the misdeed, and only the request differs. Pairs come in families, one kind of harmless use each
(Vidgen et al., HateCheck, 2021, made functional tests of hate speech that way). Whole families, the verbs of
`HELD_OUT_VERBS`, and some misdeeds and templates are kept out of the fit; they are the contrast test. Templates
are in `contrast_pairs.toml`, words in `evals.refusals.contrast_words`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from evals.refusals.contrast_words import (
    COUNTRIES,
    FITTED_MISDEEDS,
    HELD_OUT_MISDEEDS,
    HELD_OUT_VERBS,
    PLACES,
    TWO_SENSES,
)
from modelstack.files import read_toml


class Family(BaseModel, frozen=True, extra="forbid"):
    """Templates of one kind of harmless use of a misdeed's name."""

    name: str
    safe: tuple[str, ...]
    held_out: bool = False


class Kind(BaseModel, frozen=True, extra="forbid"):
    """Templates of pairs around words other than misdeeds."""

    name: str
    hazard: str
    """MLCommons hazard of the harmful twin."""
    other_hazards: Mapping[str, str] = {}
    """Hazard of a harmful twin that contains a phrase."""
    words: Mapping[str, str]
    """Name in the templates -> bank that it is drawn from; "a+b" joins names or banks."""
    safe: tuple[str, ...]
    unsafe: tuple[str, ...]
    held_out: bool = False


class Templates(BaseModel, frozen=True, extra="forbid"):
    """The content of `contrast_pairs.toml`."""

    how: tuple[str, ...]
    """Openings of a request for instructions."""
    ends_open: frozenset[str]
    """Openings of `how` that end with a full stop instead of a question mark."""
    harmful_asks: tuple[str, ...]
    held_out_asks: tuple[str, ...]
    banks: Mapping[str, tuple[str, ...]]
    families: tuple[Family, ...]
    kinds: tuple[Kind, ...]


TEMPLATES = Templates.model_validate(read_toml(Path(__file__).with_suffix(".toml"), "templates"))
_BANKS = {**TEMPLATES.banks, "how": TEMPLATES.how}
_DRAWN_BY_TEMPLATE = {"{country}": COUNTRIES, "{scene}": TEMPLATES.banks["scenes"]}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two requests that share words; one is harmful."""

    safe: str
    unsafe: str
    family: str
    hazard: str
    """MLCommons hazard of the harmful twin."""
    held_out: bool


def contrast_pairs(seed: int = 0, *, n_per_family: int = 220) -> list[Pair]:
    """Return all pairs without repeated texts, both those of the fit and the held-out ones."""
    draw = random.Random(seed)
    pairs: list[Pair] = []
    for family in TEMPLATES.families:
        pairs += _distinct(lambda family=family: _misdeed_pair(family, draw), n_per_family)
    pairs += _two_senses(draw)
    for kind in TEMPLATES.kinds:
        pairs += _distinct(lambda kind=kind: _pair(kind, draw), n_per_family)
    return pairs


def _distinct(make: Callable[[], Pair], n: int) -> list[Pair]:
    found: dict[tuple[str, str], Pair] = {}
    for _ in range(6 * n):
        pair = make()
        found.setdefault((pair.safe, pair.unsafe), pair)
        if len(found) == n:
            break
    return list(found.values())


def _misdeed_pair(family: Family, draw: random.Random) -> Pair:
    misdeed, other = draw.sample(HELD_OUT_MISDEEDS if family.held_out else FITTED_MISDEEDS, 2)
    words = {"m": misdeed, "other": other, "country": draw.choice(COUNTRIES), "place": draw.choice(PLACES)}
    safe = draw.choice(family.safe).format(**words)
    asks = TEMPLATES.held_out_asks if family.held_out else TEMPLATES.harmful_asks
    unsafe = draw.choice(asks).format(m=misdeed)
    return Pair(safe, unsafe, family.name, misdeed.hazard, family.held_out)


def _two_senses(draw: random.Random) -> list[Pair]:
    pairs: list[Pair] = []
    for verb, senses in TWO_SENSES.items():
        held_out = verb in HELD_OUT_VERBS
        for thing in senses.harmless:
            for victim, hazard in senses.harmful:
                for how in draw.sample(TEMPLATES.how, 2):
                    mark = _mark_after(how)
                    safe, unsafe = f"{how} {verb} {thing}{mark}", f"{how} {verb} {victim}{mark}"
                    pairs.append(Pair(safe, unsafe, "two_senses", hazard, held_out))
    return pairs


def _mark_after(how: str) -> str:
    return "." if how in TEMPLATES.ends_open else "?"


def _pair(kind: Kind, draw: random.Random) -> Pair:
    words: dict[str, str] = {}
    for names, banks in kind.words.items():
        bank = [word for name in banks.split("+") for word in _BANKS[name]]
        match names.split("+"):
            case [name]:
                words[name] = draw.choice(bank)
            case several:
                words |= zip(several, draw.sample(bank, len(several)), strict=True)
    if "how" in words:
        words["mark"] = _mark_after(words["how"])
    safe, unsafe = (_drawn(templates, words, draw) for templates in (kind.safe, kind.unsafe))
    hazards = (hazard for phrase, hazard in kind.other_hazards.items() if phrase in unsafe)
    return Pair(safe, unsafe, kind.name, next(hazards, kind.hazard), kind.held_out)


def _drawn(templates: Sequence[str], words: Mapping[str, str], draw: random.Random) -> str:
    """Return one of the templates, filled in; every template draws its own words, chosen or not."""
    filled: list[str] = []
    for template in templates:
        for place, bank in _DRAWN_BY_TEMPLATE.items():
            if place in template:
                template = template.replace(place, draw.choice(bank))
        filled.append(template.format(**words))
    return filled[0] if len(filled) == 1 else draw.choice(filled)
