"""Writers and choosers that are functions, a small constitution, and prompts, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from modelstack.data.examples import Message
from modelstack.preferences.constitution.asking import Turn
from modelstack.preferences.constitution.prompts import Prompt
from modelstack.preferences.constitution.schema import Constitution

SMALL = Constitution.model_validate(
    {
        "name": "small",
        "critic": "You criticise.",
        "judge": "You judge.",
        "principles": [
            {
                "id": "harm",
                "critique": "What is harmful?",
                "revision": "Write it without harm.",
                "choice": "Safer?",
            },
            {"id": "help", "critique": "What is evasive?", "revision": "Answer fully.", "choice": "More useful?"},
            {"id": "taste", "choice": "Nicer?"},
        ],
        "harmful": [{"id": "theft", "description": "stealing"}],
        "harmless": [{"id": "locks", "description": "one's own locks"}],
        "examples": [
            {
                "principle": "harm",
                "prompt": "an example's prompt",
                "reply": "an example's reply",
                "critique": "an example's critique",
                "revision": "an example's revision",
            }
        ],
    }
)


class FunctionWriter:
    """A writer that is a function of the turns and the seed; remembers what it was asked."""

    def __init__(self, function: Callable[[Sequence[Turn], int], str], name: str = "function") -> None:
        self._function = function
        self.name = name
        self.asked: list[tuple[Turn, ...]] = []

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        self.asked.append(tuple(turns))
        return self._function(turns, seed)


class FunctionChooser:
    """A chooser that is a function of the question, returning P(the first option)."""

    def __init__(self, function: Callable[[str], float], name: str = "chooser") -> None:
        self._function = function
        self.name = name
        self.asked: list[tuple[Turn, ...]] = []

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        self.asked.append(tuple(turns))
        p_first = self._function(turns[-1].content)
        return p_first, 1 - p_first


def prompt(text: str = "How do I open a lock?", id: str = "p1", **fields: object) -> Prompt:
    return Prompt.model_validate({"id": id, "messages": [Message(role="user", content=text)], **fields})


def telling(turns: Sequence[Turn], seed: int) -> str:
    """Answer each conversation in its own words, the same each time."""
    digest = hashlib.sha256(repr((tuple(turns), seed)).encode("utf-8", "replace")).hexdigest()
    return f"answer {digest[:10]}"
