"""Reward of an episode by the final state of the world, as in tau-bench (Yao et al. 2024, arXiv 2406.12045).

An episode is correct if it ended by itself, left the world in the expected state, changed it at most as often as
the gold, and gave the expected answer in its last turn, if there is one. Any way to the end therefore counts,
while undone or additional changes do not. Text written by tools is never searched for an answer, since a policy
could make a tool write anything.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.deeds import EnvironmentTools, Episode, Witness
from modelstack.reasoning.verifiers.effects import EffectGold, canonical
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, Verifier, unscorable


@dataclass(frozen=True, slots=True)
class OutcomeGold:
    """Expected state of the world."""

    end: Any
    """State as JSON data."""
    n_changes: int | None = None
    """Maximum number of calls that change the world; None: any number."""
    answer: Any = None
    """Expected answer in the last turn, in the type of the answer verifier; None: any answer."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    end: str
    n_changes: int | None
    read: Counter[str]
    answer: Any = None


class OutcomeVerifier:
    """Verifier of episodes by an expected state, or by the effects of gold calls on the same world."""

    def __init__(self, answers: Verifier[Any] | None = None) -> None:
        """Store the verifier of last turns, used for golds with an answer."""
        self._answers = answers

    def score(self, item: Item[OutcomeGold | EffectGold], completion: Completion) -> Reward:
        """Return reward 1 or 0; None if the world cannot be judged.

        Raises:
            UserError: The completion is not an episode, the gold has an answer and there is no verifier for it,
                or a world in this process differs between copies.
        """
        episode = completion.outcome
        if not isinstance(episode, Episode):
            raise UserError(
                f"item {item.id!r}: outcomes need episodes, but this reply is none: sample in turns with tools "
                f"(table episodes), or use the verifier effects"
            )
        if episode.fault:
            return unscorable(episode.fault)
        gold = item.gold
        wanted = _wanted(gold, item.id, episode) if isinstance(gold, EffectGold) else _of_state(gold)
        if isinstance(wanted, Reward):
            return wanted
        value, reason = self._compared(wanted, episode, item)
        n_failed = sum(call.has_failed or call.is_refused for call in episode.calls)
        parts = {"episode/calls": float(len(episode.calls)), "episode/turns": float(episode.n_turns)}
        if episode.calls:
            parts["episode/failed"] = n_failed / len(episode.calls)
        return Reward(value, reason, _shown(episode), parts)

    def _compared(self, wanted: _Wanted, found: Episode, item: Item[Any]) -> tuple[float | None, str]:
        if found.ended not in ("answered", "abstained"):
            return 0.0, f"the episode did not end by itself ({found.ended})"
        if found.end != wanted.end:
            return 0.0, "the final state differs"
        if wanted.n_changes is not None and found.n_changes > wanted.n_changes:
            return 0.0, f"the state was changed {found.n_changes} times, at most {wanted.n_changes} expected"
        if missing := wanted.read - found.read:
            return 0.0, f"{missing.total()} results were not read, the first {next(iter(missing)):.80}"
        if wanted.answer is None:
            return 1.0, "state and results match the gold"
        if self._answers is None:
            raise UserError(
                f"item {item.id!r}: its gold has an answer; give OutcomeVerifier a verifier of answers"
            )
        judged = self._answers.score(Item(item.id, wanted.answer, item.prompt), Completion(found.reply))
        return judged.value, f"the state matches the gold; the answer: {judged.reason}"


def _of_state(gold: OutcomeGold) -> _Wanted:
    return _Wanted(canonical(gold.end), gold.n_changes, Counter(), gold.answer)


def _wanted(gold: EffectGold, item: str, episode: Episode) -> _Wanted | Reward:
    """Return the effects of the gold calls on a new world in this process."""
    witness = Witness(EnvironmentTools(gold.make()))
    for name, arguments in gold.calls:
        done = witness.perform(name, json.dumps(arguments))
        if done.has_failed or done.is_refused:
            return unscorable(f"a gold call is refused: {done.text}"[:200])
    if witness.start != episode.start:
        raise UserError(
            f"item {item!r}: make() returned two different worlds; return an equal copy each time, "
            "independent of random numbers and of the clock"
        )
    run = witness.episode("", "answered", 1)
    return _Wanted(run.end, run.n_changes, run.read)


def _shown(episode: Episode) -> str:
    return json.dumps([[call.name, call.arguments] for call in episode.calls])[:1_000]
