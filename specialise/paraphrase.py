"""Requests said again by a model, in other words; what changes a value or adds one is thrown away.

A small model rewrites badly, so its word is checked and not taken: every value that the call copies must stand in
the new text as it stood in the old one, no number, name, path or quotation may be new, and the length must be
alike. The embedded model of 135M parameters is too small to be asked: of 40 requests five of its texts passed, and
none of these meant the same.
What a model said is kept in a file, so that a build that goes on asks nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentkit.agent import Agent
from agentkit.errors import AgentRunError
from agentkit.models.model import Model, ModelSettings
from modelstack.sft.examples import Example, Message

INSTRUCTIONS = (
    "You rewrite requests. Say the user's request in other words, as another person would type it. Keep every "
    "name, path, number and quoted text exactly as it is. Reply with the new request alone."
)
TEMPERATURE, MAX_TOKENS = 0.7, 120
_SHORTEST, _LONGEST = 0.5, 2.0
"""Of the old text's length."""
_TELLING = re.compile(r"\d[\d.,:-]*|[\w.-]*/[\w./-]+|\w+\.\w{1,5}\b|\"[^\"]*\"|'[^']*'")
"""What names a value: numbers, paths, files, quotations."""
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z]\w+")
"""A capital within a sentence."""


async def paraphrased(
    examples: Sequence[Example], model: Model, share: float, kept: Path, told: Callable[[str], object]
) -> tuple[list[Example], int]:
    """Return the examples, some of them in a model's words, and how many of these were asked for.

    Args:
        examples: With one turn of the user.
        model: Who rewrites.
        share: Of the examples, which ones depends on their ids alone.
        kept: File that remembers what was said.
        told: Is told how far it is.
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
    """Whether a new text means the same as far as can be seen: its values are there, and no others."""
    if not new or new.lower() == old.lower() or not _SHORTEST * len(old) <= len(new) <= _LONGEST * len(old):
        return False
    copied = [text for call in example.calls for text in _texts(call.arguments) if text in old]
    are_names_old = all(name in old for name in _NAME.findall(new))
    has_same_values = set(_TELLING.findall(new)) == set(_TELLING.findall(old))
    return all(text in new for text in copied) and are_names_old and has_same_values


def tidied(text: str) -> str:
    """Return a model's first line without the quotes that it likes to put around it."""
    line = next((line for line in text.strip().splitlines() if line.strip()), "").strip()
    if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'":
        line = line[1:-1].strip()
    return line


async def _ask(agent: Agent[Any, str], old: str, seed: int) -> str:
    settings = ModelSettings(temperature=TEMPERATURE, seed=seed, max_tokens=MAX_TOKENS)
    try:
        return str((await agent.run(old, settings=settings)).output or "")
    except AgentRunError:
        return ""  # one that cannot be rewritten stays as it is


def _read(kept: Path) -> dict[str, str]:
    said: dict[str, str] = {}
    if not kept.is_file():
        return said
    text = kept.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            old, new = json.loads(line)
        except ValueError:
            continue  # cut off by a kill; it is asked again
        said[old] = new
    if text and not text.endswith("\n"):
        with kept.open("a", encoding="utf-8") as file:
            file.write("\n")
    return said


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, bool) or value is None:
        return []
    return [str(value)]


def _place(name: str) -> float:
    """Return a number in [0, 1) that follows from an id."""
    return int.from_bytes(hashlib.sha256(f"other words {name}".encode()).digest()[:6]) / 2**48
