"""The reward of tool calls by what they do: those of a reply and the gold ones, each in a fresh environment.

Right is a run that ends in the gold run's state, changed the state no more often on the way, and got back what the
gold run's reads got. So another way to the same end counts, and a change that is taken back, or comes on top, does
not. (State and results as in BFCL's multi-turn checks and in tau-bench, Yao et al. 2024, arXiv 2406.12045.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.calls import Call, calls_of
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, unscorable
from modelstack.toolcalls.convention import ResponseFormat, ResponseParseError

MAX_CALLS = 64
"""Of one reply that are performed."""


class Environment(Protocol):
    """A small deterministic world. Arguments come from a model; what it raises is the result of a refused call."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Perform a call and return its result, as JSON data."""
        ...

    def state(self) -> Any:
        """Return all that can change, as JSON data."""
        ...


@dataclass(frozen=True, slots=True)
class EffectGold:
    """A world, and calls in it that are right."""

    make: Callable[[], Environment]
    """Returns a fresh copy, each time the same."""
    format: ResponseFormat
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of calls did."""

    start: str
    """The state before, as canonical JSON."""
    end: str
    n_changes: int
    """Calls after which the state was another."""
    read: Counter[str]
    """Results of the calls that changed nothing, as canonical JSON."""
    refused: tuple[str, ...]
    """What was raised."""


class EffectVerifier:
    """Performs the calls of a reply and compares what became of the world."""

    def score(self, item: Item[EffectGold], completion: Completion) -> Reward:
        """Return 1 where state and reads are the gold's, else 0; None where a gold call is refused.

        Raises:
            UserError: `make` does not return the same world each time.
        """
        gold = item.gold
        wanted = perform(gold.make(), gold.calls)
        if wanted.refused:
            return unscorable(f"a gold call is refused: {wanted.refused[0]}")
        try:
            calls = calls_of(completion.text, gold.format)
        except ResponseParseError as error:
            return Reward(0.0, str(error)[:200])
        answer = json.dumps(calls)[:1_000]
        if len(calls) > MAX_CALLS:
            return Reward(0.0, f"{len(calls)} calls, at most {MAX_CALLS} are performed", answer)
        if not gold.calls and calls:
            return Reward(0.0, "calls where none is right", answer)
        found = perform(gold.make(), calls)
        if found.start != wanted.start:
            raise UserError(
                f"item {item.id!r}: make() returned two worlds that differ; return a fresh copy each time, "
                "without chance and without the clock"
            )
        return Reward(*_compared(wanted, found), answer)


def perform(world: Environment, calls: Sequence[Call]) -> Ran:
    """Run calls one after another; what a world raises is kept and the run goes on."""
    start = before = _state_of(world)
    n_changes, read, refused = 0, Counter[str](), []
    for name, arguments in calls:
        try:
            result = canonical(world.call(name, arguments))
        except Exception as error:  # of any kind: the arguments are a model's
            refused.append(f"{name}: {type(error).__name__}: {error}"[:200])
            result = None
        after = _state_of(world)
        if after != before:
            n_changes += 1
        elif result is not None:
            read[result] += 1
        before = after
    return Ran(start, before, n_changes, read, tuple(refused))


def canonical(value: Any) -> str:
    """Return JSON data as text that is equal where the data is.

    Raises:
        TypeError: It is no JSON data.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _state_of(world: Environment) -> str:
    """Return the state, or that arguments of a model made it one that cannot be written."""
    try:
        return canonical(world.state())
    except (RecursionError, ValueError) as error:
        return f"unreadable: {type(error).__name__}"


def _compared(wanted: Ran, found: Ran) -> tuple[float, str]:
    if found.end != wanted.end:
        return 0.0, f"the state at the end is another{f' ({found.refused[0]})' if found.refused else ''}"
    if found.n_changes > wanted.n_changes:
        return 0.0, f"the state was changed {found.n_changes} times, {wanted.n_changes} are right"
    if missing := wanted.read - found.read:
        return 0.0, f"{missing.total()} results were not read, the first {next(iter(missing)):.80}"
    return 1.0, "state and results are the gold's"
