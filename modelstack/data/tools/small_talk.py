"""Small talk that needs no tool, with answers, read from small_talk.toml."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files


@cache
def small_talk() -> tuple[tuple[str, str], ...]:
    """Return pairs of message and answer."""
    text = files("modelstack.data.tools").joinpath("small_talk.toml").read_text(encoding="utf-8")
    return tuple((said, answer) for said, answer in tomllib.loads(text)["exchange"])
