"""Requests rewritten by a model; a rewrite that changes or adds a value is discarded.

A small model rewrites badly, so its output is checked. Every value that a call copies must occur unchanged in the
new text; no number, name, path or quotation may be new; and the length must be similar. The embedded model of 135M
parameters is too small: of 40 rewrites five passed these checks, and none of the five kept the meaning. Rewrites
are stored in a file, so a resumed build repeats no request.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from agentkit.agent import Agent
from agentkit.errors import AgentRunError
from agentkit.models.base import Model, ModelSettings
from modelstack.data.examples import Example, Message

INSTRUCTIONS = (
    "You rewrite requests. Say the user's request in other words, as another person would type it. Keep every "
    "name, path, number and quoted text exactly as it is. Reply with the new request alone."
)
TEMPERATURE, MAX_TOKENS = 0.7, 120
_SHORTEST, _LONGEST = 0.5, 2.0
"""Bounds of the new text's length, relative to the old one."""
_TELLING = re.compile(r"\d[\d.,:-]*|[\w.-]*/[\w./-]+|\w+\.\w{1,5}\b|\"[^\"]*\"|'[^']*'")
"""Parts that identify a value: numbers, paths, files, quotations."""
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z]\w+")
"""A capitalised word within a sentence."""


async def paraphrased(
    examples: Sequence[Example], model: Model, share: float, kept: Path, told: Callable[[str], object]
) -> tuple[list[Example], int]:
    """Return the examples, some of them rewritten, and how many rewrites were requested.

    Args:
        examples: Examples; only those with a single user turn are rewritten.
        model: Model that rewrites.
        share: Share of the examples to rewrite; their ids alone decide which ones.
        kept: File that stores the rewrites.
        told: Receives progress messages.
    """
    agent = Agent(model, instructions=INSTRUCTIONS)
    chosen = [example for example in examples if _place(example.id) < share and len(example.messages) == 1]
    said = _read(kept)
    found: dict[str, Example] = {}
    for number, example in enumerate(chosen, 1):
        old = example.messages[0].content
        if old not in said:
            said[old] = await _ask(agent, old, number)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps([old, said[old]], ensure_ascii=False) + "\n")
        new = tidied(said[old])
        if is_faithful(old, new, example):
            found[example.id] = example.model_copy(update={"messages": (Message(role="user", content=new),)})
        told(f"other words: {number} of {len(chosen)}, {len(found)} kept")
    return [found.get(example.id, example) for example in examples], len(chosen)


def is_faithful(old: str, new: str, example: Example) -> bool:
    """Return whether a new text keeps the meaning as far as can be checked: the same values, and no others."""
    if not new or new.lower() == old.lower() or not _SHORTEST * len(old) <= len(new) <= _LONGEST * len(old):
        return False
    copied = [text for call in example.calls for text in _texts(call.arguments) if text in old]
    are_names_old = all(name in old for name in _NAME.findall(new))
    has_same_values = set(_TELLING.findall(new)) == set(_TELLING.findall(old))
    return all(text in new for text in copied) and are_names_old and has_same_values


def tidied(text: str) -> str:
    """Return a model's first line without surrounding quotes."""
    line = next((line for line in text.strip().splitlines() if line.strip()), "").strip()
    if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'":
        line = line[1:-1].strip()
    return line


async def _ask(agent: Agent[Any, str], old: str, seed: int) -> str:
    settings = ModelSettings(temperature=TEMPERATURE, seed=seed, max_tokens=MAX_TOKENS)
    try:
        return str((await agent.run(old, settings=settings)).output_or_none or "")
    except AgentRunError:
        return ""  # keeps the original request


def _read(kept: Path) -> dict[str, str]:
    said: dict[str, str] = {}
    if not kept.is_file():
        return said
    text = kept.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            old, new = json.loads(line)
        except ValueError:
            continue  # truncated when the process was killed; it is requested again
        said[old] = new
    if text and not text.endswith("\n"):
        with kept.open("a", encoding="utf-8") as file:
            file.write("\n")
    return said


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in cast("dict[str, Any]", value).values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in cast("list[Any]", value) for text in _texts(item)]
    if isinstance(value, bool) or value is None:
        return []
    return [str(value)]


def _place(name: str) -> float:
    """Return a number in [0, 1) derived from an id."""
    return int.from_bytes(hashlib.sha256(f"other words {name}".encode()).digest()[:6]) / 2**48
