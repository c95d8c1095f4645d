"""BFCL's two multi-turn checks, made after every turn whose answer key has calls.

- State: every public attribute of every object equals that of a second world in which the key's calls were made.
- Results: the results of the key's calls of this turn occur, in any order and at least as often, among the results
  of all calls so far. Additional calls are allowed.

A turn without calls fails if the key has calls. A turn with an empty key is not checked, but its calls are
performed. Whether the model made no call in it is a separate measurement (`multi_turn_irrelevance_checker` of the
original, which its runner does not count either).

The original stops at the first turn that fails. Here every turn gets a verdict, and a case is correct if all turns
are.

Source: bfcl_eval/eval_checker/multi_turn_eval/multi_turn_checker.py of bfcl-eval (Apache-2.0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals.tool_use.bfcl.multi_turn_calls import Call
from evals.tool_use.bfcl.multi_turn_environment import Environment
from evals.tool_use.bfcl.multi_turn_state import differences

Fault = Literal["no_call", "state", "results"]


@dataclass(frozen=True, slots=True)
class TurnVerdict:
    """Verdict on one turn: correct, or the first check that failed."""

    fault: Fault | None = None
    details: tuple[str, ...] = ()
    """Attributes that differ, or results that are missing."""
    is_checked: bool = True
    """False if the key of the turn is empty."""
    n_calls: int = 0
    """Number of calls by the model."""

    @property
    def is_right(self) -> bool:
        """Whether no check failed."""
        return self.fault is None


def check_turns(
    turns: Sequence[Sequence[Call]],
    reference_turns: Sequence[Sequence[Call]],
    world: Environment,
    reference_world: Environment,
) -> list[TurnVerdict]:
    """Replay both runs, each in its own new world, and return a verdict for each turn of the reference.

    `turns` may be shorter than the reference; a missing turn counts as a turn without calls.
    """
    verdicts: list[TurnVerdict] = []
    results: Counter[str] = Counter()
    for index, reference in enumerate(reference_turns):
        calls = turns[index] if index < len(turns) else ()
        results.update(world.call(call).text for call in calls)
        expected = Counter(reference_world.call(call).text for call in reference)
        verdicts.append(_verdict(calls, expected, results, world, reference_world))
    return verdicts


def keeps_still(turns: Sequence[Sequence[Call]], reference_turns: Sequence[Sequence[Call]]) -> bool | None:
    """Return whether no call was made in the turns with an empty key; None if there is no such turn."""
    empty = [index for index, reference in enumerate(reference_turns) if not reference]
    if not empty:
        return None
    return not any(turns[index] for index in empty if index < len(turns))


def _verdict(
    calls: Sequence[Call],
    expected: Counter[str],
    results: Counter[str],
    world: Environment,
    reference_world: Environment,
) -> TurnVerdict:
    if not expected:
        return TurnVerdict(is_checked=False, n_calls=len(calls))
    if not calls:
        return TurnVerdict("no_call")
    if different := differences(world.state(), reference_world.state()):
        return TurnVerdict("state", tuple(different), n_calls=len(calls))
    if missing := expected - results:
        return TurnVerdict("results", tuple(missing.elements()), n_calls=len(calls))
    return TurnVerdict(n_calls=len(calls))
