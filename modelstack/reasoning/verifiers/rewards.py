"""The vocabulary of verifiers: an item with its gold, a completion, a reward that may be absent.

A reward of None says that the completion cannot be judged (the gold is unreadable, an item has no tests). It is
never a 0: a 0 teaches the policy that its answer was wrong. Whoever normalises a group leaves None out.

Text of a completion is hostile: a policy that is trained long enough finds every way to a reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

Gold = TypeVar("Gold")
THINK, END_OF_THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Item(Generic[Gold]):
    """A task with what is right."""

    id: str
    gold: Gold
    """What a verifier compares with; its type is the verifier's."""
    prompt: str = ""
    is_canary: bool = False
    """Whether no completion can be right, so that any reward is an alarm (`canaries`)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy wrote."""

    text: str
    token_ids: tuple[int, ...] = ()
    """As sampled, without the prompt; for rewards on length and repetition."""
    is_truncated: bool = False
    """Whether it ended at the limit of tokens."""
    outcome: Any = None
    """What is left of it beside the text, as the world after an episode with tools."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a completion is worth, and why."""

    value: float | None
    """None: it cannot be judged."""
    reason: str = ""
    answer: str | None = None
    """What was taken out of the text and judged."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Values of the components, by name, before weights; for the log."""


class Verifier(Protocol[Gold]):
    """Judges completions. `score` may be called from several threads; it blocks, and for a bounded time."""

    def score(self, item: Item[Gold], completion: Completion) -> Reward:
        """Return the reward of a completion."""
        ...


def unscorable(reason: str) -> Reward:
    """Return the reward of what cannot be judged."""
    return Reward(None, reason)


def final_part(text: str) -> str | None:
    """Return what follows the reasoning: the text after the last `</think>`, or all of it without any.

    None where a `<think>` is open at the end: the answer was not reached.
    """
    _, closed, rest = text.rpartition(END_OF_THOUGHT)
    if THINK in rest:
        return None
    return rest if closed else text


def score_all(verifier: Verifier[Any], pairs: Sequence[tuple[Item[Any], Completion]]) -> list[Reward]:
    """Return the rewards of completions, in order."""
    return [verifier.score(item, completion) for item, completion in pairs]
