"""Shared types of verifiers: an item with its gold, a completion, and a reward that may be None.

A reward of None means that the completion cannot be judged (the gold is unreadable, or an item has no tests). It
must not be replaced by 0, which would teach the policy that its answer was wrong. Group normalisation excludes
None.

The text of a completion is untrusted: given enough training, a policy finds every way to get a reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

Gold = TypeVar("Gold")
THINK, END_OF_THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Item(Generic[Gold]):
    """Task with its gold."""

    id: str
    gold: Gold
    """Expected result; its type depends on the verifier."""
    prompt: str = ""
    is_canary: bool = False
    """Whether no completion can be correct, so that any reward raises an alarm (`canaries`)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Completion written by a policy."""

    text: str
    token_ids: tuple[int, ...] = ()
    """Sampled token ids without the prompt, for rewards of length and repetition."""
    is_truncated: bool = False
    """Whether the completion ended at the token limit."""
    outcome: Any = None
    """Result besides the text, such as the record of an episode with tools."""


@dataclass(frozen=True, slots=True)
class Reward:
    """Value of a completion, with the reason."""

    value: float | None
    """Reward; None: the completion cannot be judged."""
    reason: str = ""
    answer: str | None = None
    """Extracted answer that was judged."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Unweighted values of the components by name, for the log."""


class Verifier(Protocol[Gold]):
    """Judge of completions. `score` is thread-safe, and blocks for a bounded time."""

    def score(self, item: Item[Gold], completion: Completion) -> Reward:
        """Return the reward of a completion."""
        ...


def unscorable(reason: str) -> Reward:
    """Return a reward of None."""
    return Reward(None, reason)


def final_part(text: str) -> str | None:
    """Return the text after the last `</think>`, or the whole text if there is none.

    Returns None if a `<think>` is still open at the end, as there is no answer.
    """
    _, closed, rest = text.rpartition(END_OF_THOUGHT)
    if THINK in rest:
        return None
    return rest if closed else text


def score_all(verifier: Verifier[Any], pairs: Sequence[tuple[Item[Any], Completion]]) -> list[Reward]:
    """Return the rewards of completions, in order."""
    return [verifier.score(item, completion) for item, completion in pairs]
