"""Questions about a society's folder of small files, made by rule: the agent has to know where things are."""

from __future__ import annotations

import random
from pathlib import Path

from agentkit.improve import Call, Checks, Task

INSTRUCTIONS = "You look after a society's folder of files. Do what is asked, then answer in one short sentence."
_FIRST = (
    "Anton", "Berta", "Clara", "Dario", "Elin", "Fabio", "Greta", "Hanno", "Ilse", "Jonas", "Karla", "Lothar",
    "Mira", "Nils", "Olga",
)  # fmt: skip
_LAST = (
    "Abel", "Brandt", "Cordes", "Dietz", "Ebert", "Falk", "Gerber", "Hauser", "Imhof", "Jahn", "Kern", "Lenz",
    "Moser", "Nolte", "Oster",
)  # fmt: skip
_EVENTS = (
    "autumn fair", "boat trip", "chess night", "dance evening", "flea market", "garden party", "hill walk",
    "jazz brunch", "kite day", "lantern walk", "music night", "night swim", "open stage", "picnic day",
    "quiz evening",
)  # fmt: skip


def build(folder: Path) -> None:
    """Write the files into a folder."""
    for path, text in _files().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def tasks() -> list[Task]:
    """Return all requests with their checks and solutions."""
    found: list[Task] = []
    for name, phone, year in _members():
        path = _member_path(name)
        read = (Call(name="read_text_file", arguments={"path": path}),)
        found.append(
            _task("phone", f"What is the phone number of {name}?", read, Checks(answer_contains=(phone,)))
        )
        found.append(_task("joined", f"In which year did {name} join?", read, Checks(answer_number=year)))
    for name, place, fee in _events():
        path = f"programme/{_slug(name)}.md"
        read = (Call(name="read_text_file", arguments={"path": path}),)
        found.append(_task("fee", f"How much is the fee for the {name}?", read, Checks(answer_number=fee)))
        found.append(_task("place", f"Where does the {name} take place?", read, Checks(answer_contains=(place,))))
    return found


def _task(group: str, prompt: str, solution: tuple[Call, ...], checks: Checks) -> Task:
    return Task.model_validate({"prompt": prompt, "group": group, "checks": checks, "solution": solution})


def _files() -> dict[str, str]:
    files = {
        _member_path(name): f"# {name}\n\nPhone: {phone}\nMember since: {year}\n"
        for name, phone, year in _members()
    }
    files |= {f"programme/{_slug(n)}.md": f"# {n.title()}\n\nPlace: {p}\nFee: {fee}\n" for n, p, fee in _events()}
    return files


def _members() -> list[tuple[str, str, int]]:
    draw = random.Random(21)
    phones = draw.sample(range(100_000, 999_999), len(_FIRST))
    years = draw.sample(range(1980, 2025), len(_FIRST))
    last = draw.sample(_LAST, len(_LAST))
    return [(f"{a} {b}", f"{phone}", year) for a, b, phone, year in zip(_FIRST, last, phones, years, strict=True)]


def _events() -> list[tuple[str, str, int]]:
    draw = random.Random(22)
    places = [f"{a} {b}" for a in ("Mill", "North", "Old", "River", "South") for b in ("Barn", "Hall", "Lawn")]
    fees = draw.sample(range(101, 999), len(_EVENTS))
    return list(zip(_EVENTS, draw.sample(places, len(_EVENTS)), fees, strict=True))


def _member_path(name: str) -> str:
    first, last = name.casefold().split()
    return f"people/{last}-{first}.md"


def _slug(name: str) -> str:
    return name.replace(" ", "-")
