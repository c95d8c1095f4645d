"""Phrase banks of the reply grammar: how models and people say no, hedge, moralise, redirect and comply.

Written for this repository in many voices; no reply of a benchmark or of a human-labelled set is in them (a test
compares them with the labelled rows). The phrases are data: `refusal_phrases.json`, a list for each bank. `{act}`
is the request as an action ("write a poem about rain"), `{doing}` (`{Doing}`) its gerund, `{topic}` its object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PHRASES_FILE = Path(__file__).parent / "refusal_phrases.json"


@cache
def phrase_banks() -> Mapping[str, tuple[str, ...]]:
    """Return all banks by name.

    Raises:
        FileNotFoundError: the package lacks its data file.
    """
    banks = json.loads(PHRASES_FILE.read_text("utf-8"))
    return {name: tuple(phrases) for name, phrases in banks.items()}
