"""Prices after a carrier's tariff, calculated by the Python server: the agent has to write the right expression.

The instructions state the tariff, so the present version can be right. Values are drawn by rule.
"""

from __future__ import annotations

import random
from pathlib import Path

from agentkit.improve import Call, Checks, Task

INSTRUCTIONS = (
    "You calculate prices in cents with Python. Freight costs 415, plus 37 for each kilogram over 5. A repair "
    "costs 900, plus 45 for each quarter of an hour begun. Rent costs 250 a day, less 60 for each full week. "
    "Answer in one short sentence."
)
_N_VALUES = 16


def build(folder: Path) -> None:
    """Write nothing: the server has no files."""


def tasks() -> list[Task]:
    """Return all requests with their checks and solutions."""
    draw = random.Random(25)
    found: list[Task] = []
    for n in draw.sample(range(12, 99), _N_VALUES):
        code, price = f"print(415 + 37 * max(0, {n} - 5))", 415 + 37 * max(0, n - 5)
        found.append(_task("freight", f"Calculate the freight of {n} kilograms.", code, price))
    for n in draw.sample(range(16, 240), _N_VALUES):
        code, price = f"print(900 + 45 * -(-{n} // 15))", 900 + 45 * -(-n // 15)
        found.append(_task("repair", f"Calculate the price of a repair of {n} minutes.", code, price))
    for n in draw.sample(range(15, 90), _N_VALUES):
        code, price = f"print(250 * {n} - 60 * ({n} // 7))", 250 * n - 60 * (n // 7)
        found.append(_task("rent", f"Calculate the rent for {n} days.", code, price))
    return found


def _task(group: str, prompt: str, code: str, price: int) -> Task:
    solution = (Call(name="run_python", arguments={"code": code}),)
    return Task.model_validate(
        {"prompt": prompt, "group": group, "checks": Checks(answer_number=price), "solution": solution}
    )
