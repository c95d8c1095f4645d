"""Reward of tool calls by their effects: the reply's calls and the gold calls run in separate new environments.

A run is correct if it ends in the same state as the gold run, changes the state at most as often, and reads
every result that the gold run reads. Any other way to the same end therefore counts, while undone or additional
changes do not. State and results are compared as in BFCL's multi-turn checks and in tau-bench (Yao et al. 2024,
arXiv 2406.12045).
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
"""Maximum number of executed calls in one reply."""


class Environment(Protocol):
    """Small deterministic world. Arguments come from a model; an error means that the call is refused."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Execute a call and return its result as JSON data."""
        ...

    def state(self) -> Any:
        """Return the complete state as JSON data."""
        ...


@dataclass(frozen=True, slots=True)
class EffectGold:
    """World, with the correct calls in it."""

    make: Callable[[], Environment]
    """Makes a new copy of the world in the same start state."""
    format: ResponseFormat
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """Result of a sequence of calls."""

    start: str
    """State before the calls, as canonical JSON."""
    end: str
    n_changes: int
    """Number of calls that changed the state."""
    read: Counter[str]
    """Results of the calls that changed nothing, as canonical JSON."""
    refused: tuple[str, ...]
    """Error messages of refused calls."""


class EffectVerifier:
    """Verifier that executes the calls of a reply and compares their effects with those of the gold."""

    def score(self, item: Item[EffectGold], completion: Completion) -> Reward:
        """Return 1 if state and reads match the gold's, else 0; None if a gold call is refused.

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
            return Reward(0.0, f"{len(calls)} calls, at most {MAX_CALLS} are executed", answer)
        if not gold.calls and calls:
            return Reward(0.0, "calls, but none is expected", answer)
        found = perform(gold.make(), calls)
        if found.start != wanted.start:
            raise UserError(
                f"item {item.id!r}: make() returned two different worlds; return an equal copy each time, "
                "independent of random numbers and of the clock"
            )
        return Reward(*_compared(wanted, found), answer)


def perform(world: Environment, calls: Sequence[Call]) -> Ran:
    """Execute calls in order; errors are recorded and the run continues."""
    start = before = _state_of(world)
    n_changes, read, refused = 0, Counter[str](), []
    for name, arguments in calls:
        try:
            result = canonical(world.call(name, arguments))
        except Exception as error:  # any type: the arguments come from a model
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
    """Return JSON data as text; equal data gives equal text.

    Raises:
        TypeError: The value is not JSON data.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _state_of(world: Environment) -> str:
    """Return the state as text, or a note that the model's arguments made it unserialisable."""
    try:
        return canonical(world.state())
    except (RecursionError, ValueError) as error:
        return f"unreadable: {type(error).__name__}"


def _compared(wanted: Ran, found: Ran) -> tuple[float, str]:
    if found.end != wanted.end:
        return 0.0, f"the final state differs{f' ({found.refused[0]})' if found.refused else ''}"
    if found.n_changes > wanted.n_changes:
        return 0.0, f"the state was changed {found.n_changes} times, at most {wanted.n_changes} expected"
    if missing := wanted.read - found.read:
        return 0.0, f"{missing.total()} results were not read, the first {next(iter(missing)):.80}"
    return 1.0, "state and results match the gold"
