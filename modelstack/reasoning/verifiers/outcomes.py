"""The reward of an episode by what became of the world, as tau-bench has it (Yao et al. 2024, arXiv 2406.12045).

Right is an episode that came to an end by itself, left the world in the wanted state, changed it no more often on
the way than the gold does, and where something is asked, says it in its last turn. So any way to the end counts,
and a change that is taken back, or comes on top, does not. What tools wrote is never read for an answer: a policy
could have a tool say anything.
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
    """A state that is right."""

    end: Any
    """JSON data."""
    n_changes: int | None = None
    """Most calls that may change the world; None: any number."""
    answer: Any = None
    """What the last turn has to say, as the verifier of answers takes it; None: anything."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    end: str
    n_changes: int | None
    read: Counter[str]
    answer: Any = None


class OutcomeVerifier:
    """Judges episodes: by a state, or by what gold calls do to the same world."""

    def __init__(self, answers: Verifier[Any] | None = None) -> None:
        """Take what judges last turns where a gold has an answer."""
        self._answers = answers

    def score(self, item: Item[OutcomeGold | EffectGold], completion: Completion) -> Reward:
        """Return 1 or 0; None where the world cannot be judged.

        Raises:
            UserError: The completion is no episode, the gold has an answer and nothing judges it, or a world in
                this process is not the same each time.
        """
        episode = completion.outcome
        if not isinstance(episode, Episode):
            raise UserError(
                f"item {item.id!r}: outcomes are of episodes, and this reply has none: sample in turns with tools "
                f"(episodes), or take the verifier effects"
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
            return 0.0, f"it did not come to an end by itself ({found.ended})"
        if found.end != wanted.end:
            return 0.0, "the state at the end is another"
        if wanted.n_changes is not None and found.n_changes > wanted.n_changes:
            return 0.0, f"the state was changed {found.n_changes} times, {wanted.n_changes} are right"
        if missing := wanted.read - found.read:
            return 0.0, f"{missing.total()} results were not read, the first {next(iter(missing)):.80}"
        if wanted.answer is None:
            return 1.0, "state and results are the gold's"
        if self._answers is None:
            raise UserError(f"item {item.id!r}: its gold has an answer; give OutcomeVerifier what judges answers")
        judged = self._answers.score(Item(item.id, wanted.answer, item.prompt), Completion(found.reply))
        return judged.value, f"the state is the gold's; of the answer: {judged.reason}"


def _of_state(gold: OutcomeGold) -> _Wanted:
    return _Wanted(canonical(gold.end), gold.n_changes, Counter(), gold.answer)


def _wanted(gold: EffectGold, item: str, episode: Episode) -> _Wanted | Reward:
    """Return what gold calls do to a world of this process."""
    witness = Witness(EnvironmentTools(gold.make()))
    for name, arguments in gold.calls:
        done = witness.perform(name, json.dumps(arguments))
        if done.has_failed or done.is_refused:
            return unscorable(f"a gold call is refused: {done.text}"[:200])
    if witness.start != episode.start:
        raise UserError(
            f"item {item!r}: make() returned two worlds that differ; return a fresh copy each time, without "
            "chance and without the clock"
        )
    run = witness.episode("", "answered", 1)
    return _Wanted(run.end, run.n_changes, run.read)


def _shown(episode: Episode) -> str:
    return json.dumps([[call.name, call.arguments] for call in episode.calls])[:1_000]
