"""Things said to an assistant that need no tool and get an answer in words, read from small_talk.toml."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files


@cache
def small_talk() -> tuple[tuple[str, str], ...]:
    """Return what is said, and the answer."""
    text = files("modelstack.data.tools").joinpath("small_talk.toml").read_text(encoding="utf-8")
    return tuple((said, answer) for said, answer in tomllib.loads(text)["exchange"])
