"""What an episode did: its calls, what each gave and whether it changed the world, and the state at both ends.

An episode is a conversation in which a policy calls tools that really run. Its reward is not in its text, half of
which tools wrote, but in what became of the world; this is the record that a sampler hands to a verifier.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from modelstack.reasoning.verifiers.effects import Environment, canonical
from modelstack.toolcalls.convention import render_json

Ending = Literal["answered", "abstained", "malformed", "turns", "tokens"]
"""In words; by `[]`; by a reply that is neither call nor answer; at the limit of turns; at the limit of tokens."""
MAX_FAULT_CHARS = 300


class ToolFailure(Exception):
    """A tool says that a call has failed; the message is its result, and the model reads it as one."""


class CallRefused(Exception):
    """A call was not made, for its arguments cannot be; the model reads the message alone, as serving has it."""


class EpisodeTools(Protocol):
    """The tools of one episode, and the world behind them. What a call raises is its result."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Perform a call; return the result as the model reads it.

        Raises:
            ToolFailure: It failed.
            CallRefused: It was not made.
        """
        ...

    def state(self) -> Any:
        """Return all that can change and that counts, as JSON data; None where nothing is judged by it."""
        ...


@dataclass(frozen=True, slots=True)
class EnvironmentTools:
    """A small world in this process as the tools of an episode."""

    world: Environment

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the result: text as it is, data as JSON."""
        result = self.world.call(name, arguments)
        return result if isinstance(result, str) else render_json(result)

    def state(self) -> Any:
        """Return the world's state."""
        return self.world.state()


@dataclass(frozen=True, slots=True)
class Performed:
    """A call and what came of it."""

    name: str
    arguments: str
    """As they were written, JSON."""
    text: str
    """What the tool said."""
    has_failed: bool = False
    is_refused: bool = False
    changed: bool = False
    """Whether the world was another after it."""

    @property
    def shown(self) -> str:
        """Return what the model reads, word for word what serving shows."""
        return self.text if self.is_refused else f"{self.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class Episode:
    """What a verifier reads of an episode; `Completion.outcome`."""

    reply: str
    """The policy's last turn: its answer, if it came to one."""
    ended: Ending
    calls: tuple[Performed, ...]
    start: str
    """The state before, as canonical JSON."""
    end: str
    n_turns: int
    """Of the policy."""
    fault: str = ""
    """Why the world cannot be judged, which is not the policy's doing; empty where it can."""

    @property
    def n_changes(self) -> int:
        """Return how many calls changed the world."""
        return sum(call.changed for call in self.calls)

    @property
    def read(self) -> Counter[str]:
        """Return the results of the calls that changed nothing."""
        return Counter(
            call.text for call in self.calls if not (call.changed or call.has_failed or call.is_refused)
        )


class Witness:
    """Performs an episode's calls and watches the world."""

    def __init__(self, tools: EpisodeTools) -> None:
        """Look at the world as it is before."""
        self._tools = tools
        self.calls: list[Performed] = []
        self.fault = ""
        self.start = self.now = self._look()

    def perform(self, name: str, arguments: str) -> Performed:
        """Perform a call, whatever comes of it; `arguments` is JSON text that a model wrote."""
        has_failed = is_refused = False
        try:
            text = self._tools.call(name, _read(arguments))
        except CallRefused as refusal:
            text, is_refused = str(refusal), True
        except ToolFailure as failure:
            text, has_failed = str(failure), True
        except Exception as error:  # of any kind: the arguments are a model's
            text, has_failed = f"{type(error).__name__}: {error}", True
        before, self.now = self.now, self._look()
        done = Performed(name, arguments, text, has_failed, is_refused, self.now != before)
        self.calls.append(done)
        return done

    def episode(self, reply: str, ended: Ending, n_turns: int) -> Episode:
        """Return the record."""
        return Episode(reply, ended, tuple(self.calls), self.start, self.now, n_turns, self.fault)

    def _look(self) -> str:
        try:
            return canonical(self._tools.state())
        except (RecursionError, TypeError, ValueError) as error:  # arguments of a model made it what it is
            return f"unreadable: {type(error).__name__}"
        except Exception as error:  # of any kind: the world is not there any more
            found = f"the state cannot be read: {type(error).__name__}: {error}"
            self.fault = self.fault or found[:MAX_FAULT_CHARS]
            return "unreadable"


def _read(arguments: str) -> Mapping[str, Any]:
    try:
        found = json.loads(arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CallRefused(f"The arguments are no JSON: {error}") from error
    if not isinstance(found, dict):
        raise CallRefused("The arguments are no JSON object.")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
