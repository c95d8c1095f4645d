"""Questions about a workshop's database, made by rule: the agent has to find its tables and columns.

The names of the columns do not occur in the questions, as in most databases that have grown. The tasks belong to
no benchmark.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from agentkit.improve import Call, Checks, Task

DATABASE = "workshop.db"
INSTRUCTIONS = "You answer questions about a workshop's database. Answer in one short sentence."
_ITEMS = (
    "ball bearing", "drive belt", "gear wheel", "hose clamp", "lock nut", "oil filter", "pressure valve",
    "pump seal",
    "shaft coupling", "spark plug", "steel washer", "tie rod", "torsion spring", "wheel hub", "wing screw",
)  # fmt: skip
_SITES = ("Aldburg", "Brennhafen", "Cornau", "Dornfeld")
_TOWNS = ("Rostock", "Malmo", "Brno", "Turku", "Graz")


def build(folder: Path) -> None:
    """Write the database into a folder."""
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.executescript(
            "create table stock_levels (item text, site text, on_hand integer);"
            "create table sourcing (item text, unit_cents integer, town text);"
        )
        database.executemany("insert into stock_levels values (?, ?, ?)", _levels())
        database.executemany("insert into sourcing values (?, ?, ?)", _sources())


def tasks() -> list[Task]:
    """Return all questions with their answers and solutions."""
    found: list[Task] = []
    for item, cents, town in _sources():
        here = {site: n for name, site, n in _levels() if name == item}
        site = _SITES[sum(map(ord, item)) % len(_SITES)]
        asked: tuple[tuple[str, str, str, int | str], ...] = (
            (
                "on hand",
                f"How many of the item {item} are there in {site}?",
                f"select on_hand from stock_levels where item = '{item}' and site = '{site}'",
                here[site],
            ),
            (
                "price",
                f"What does one {item} cost, in cents?",
                f"select unit_cents from sourcing where item = '{item}'",
                cents,
            ),
            (
                "town",
                f"From which town do we get the {item}?",
                f"select town from sourcing where item = '{item}'",
                town,
            ),
        )
        found += [_task(*each) for each in asked]
    return found


def _task(group: str, prompt: str, sql: str, answer: int | str) -> Task:
    checks = Checks(answer_number=answer) if isinstance(answer, int) else Checks(answer_contains=(answer,))
    solution = (Call(name="query", arguments={"sql": sql}),)
    return Task.model_validate({"prompt": prompt, "group": group, "checks": checks, "solution": solution})


def _levels() -> list[tuple[str, str, int]]:
    """Return item, site and number; each number occurs once, so no other answer is right by chance."""
    numbers = iter(random.Random(20).sample(range(1_000, 9_999), len(_ITEMS) * len(_SITES)))
    return [(item, site, next(numbers)) for item in _ITEMS for site in _SITES]


def _sources() -> list[tuple[str, int, str]]:
    draw = random.Random(23)
    cents = draw.sample(range(11_000, 19_999), len(_ITEMS))
    return [(item, each, draw.choice(_TOWNS)) for item, each in zip(_ITEMS, cents, strict=True)]
