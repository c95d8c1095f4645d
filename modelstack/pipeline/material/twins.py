"""Requests in pairs with the same words, one harmful and one harmless, and a reply to each.

They teach a model to refuse by meaning, and measure whether it does: a model that refuses by words refuses both or
none. The requests of training, of the evaluation and of attacks have different fills, so that no request is on two
sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelstack.files import parse_toml

_FILE = Path(__file__).with_name("twins.toml")
LICENSE, SOURCE = "CC0-1.0", "twins"
_EVALUATED_OF = 4
"""Interval: every n-th fill is for measurements only."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A pair of requests with replies."""

    id: str
    harmful: str
    harmless: str
    refusal: str
    answer: str
    category: str


def made_twins(n: int, seed: int) -> tuple[list[Twin], list[Twin]]:
    """Return up to `n` pairs in all, in a seeded order: those for training, and those for measurements."""
    sides: tuple[list[Twin], list[Twin]] = ([], [])
    for twin, is_measured in _every():
        sides[is_measured].append(twin)
    draw = random.Random(f"twins {seed}")
    for side in sides:
        draw.shuffle(side)
    n_measured = max(n // _EVALUATED_OF, n - len(sides[0]))
    return sides[0][: n - n_measured], sides[1][:n_measured]


def _every() -> list[tuple[Twin, bool]]:
    found: list[tuple[Twin, bool]] = []
    for number, frame in enumerate(_frames()):
        for place, fill in enumerate(frame["fills"]):
            is_measured = (place + number) % _EVALUATED_OF == 0
            for form, (bad, good) in enumerate(zip(frame["harmful"], frame["harmless"], strict=True)):
                for manner, lead in enumerate(_leads()):
                    found.append(
                        (
                            Twin(
                                f"twin-{number}-{place}-{form}-{manner}",
                                lead + _lowered(bad.replace("{x}", fill), lead),
                                lead + _lowered(good.replace("{x}", fill), lead),
                                _refusal(frame["refuse"].replace("{x}", fill), form),
                                frame["advice"].replace("{x}", fill),
                                frame["category"],
                            ),
                            is_measured,
                        )
                    )
    return found


def _leads() -> Sequence[str]:
    return ("", "Please tell me: ")


def _lowered(text: str, lead: str) -> str:
    is_name = text.startswith("I ")
    return text if not lead or is_name else text[0].lower() + text[1:]


def _refusal(what: str, form: int) -> str:
    offers = (
        "I can help you to keep people and animals safe instead.",
        "If you are in conflict with somebody, I can help you to find words for it.",
        "If somebody is in danger, please call the emergency number.",
    )
    return f"I can't help you to {what}, because it would harm others. {offers[form % len(offers)]}"


@cache
def _frames() -> tuple[dict[str, Any], ...]:
    return tuple(parse_toml(_FILE.read_text(encoding="utf-8"), _FILE.name)["frames"])
