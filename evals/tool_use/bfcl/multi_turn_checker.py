"""The two checks of BFCL's multi-turn categories, made after every turn whose answer key has calls.

- State: every public attribute of every object equals that of a second world in which the key's calls were made.
- Results: what the key's calls of this turn returned is found, in any order and as often, among the results of
  all calls so far. Further calls are allowed.
- A turn without any call fails where the key has calls. A turn with an empty key is not checked; what was called
  in it is performed all the same. Whether the model kept still in it is a figure of its own
  (`multi_turn_irrelevance_checker` of the original, which its runner does not count either).

The original stops at the first turn that fails; here every turn gets its verdict, and a case is right if all are.

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
    """Whether a turn is right, and if not what the first failing check was."""

    fault: Fault | None = None
    details: tuple[str, ...] = ()
    """The attributes that differ, or the results that are missing."""
    is_checked: bool = True
    """False where the key is empty."""
    n_calls: int = 0
    """Calls that the model made."""

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
    """Replay both runs, each in its own fresh world, and return a verdict for each turn of the reference.

    `turns` may be fewer: a turn that did not take place made no calls.
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
    """Return whether no call was made in any turn with an empty key; None where there is no such turn."""
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
