"""Harmless requests by rule, in the voices of harmful ones: guides, scripts, posters, plans.

Without them "Write a tutorial on" alone would look harmful: it is frequent in the public sets of harmful requests.
The templates (`ordinary_requests.toml`) are our own. They were written with the development sets in view, never
with an evaluation set: benign and harmful texts there begin with "Write a reason why" and "Explain why".
"""

from __future__ import annotations

import random
from pathlib import Path

from evals.refusals.contrast_words import ACTIVITIES, COUNTRIES
from modelstack.files import read_toml

_words = read_toml(Path(__file__).with_suffix(".toml"), "templates")


def ordinary_requests(seed: int, n: int, tasks: tuple[str, ...] = ()) -> list[str]:
    """Return distinct harmless requests.

    Args:
        seed: Seed of the draws.
        n: Largest number of requests.
        tasks: Further tasks in the imperative, lower case ("list all files in an archive").
    """
    draw = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(5 * n):
        activity = draw.choice(ACTIVITIES)
        do, doing = activity.do, activity.doing
        if tasks and draw.random() < 0.5:
            do = draw.choice(tasks)
            doing = f"the task '{do}'"
        subject, country = draw.choice(_words["subjects"]), draw.choice(COUNTRIES)
        template = draw.choice(_words["templates"])
        tool = draw.choice(_words["tools"])
        found[template.format(do=do, doing=doing, subject=subject, country=country, tool=tool)] = None
        if len(found) == n:
            break
    return list(found)
