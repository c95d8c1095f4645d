"""Record of an episode: its calls, their results and effects on the world, and the state at both ends.

An episode is a conversation in which a policy calls tools that are really executed. Its reward depends on the
final state of the world rather than on its text, part of which was written by tools. A sampler passes this
record to a verifier.
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
"""End of an episode: an answer in words; `[]`; neither a call nor an answer; the turn limit; the token limit."""
MAX_FAULT_CHARS = 300


class ToolFailure(Exception):
    """Error of a failed call; its message is the result that the model reads."""


class CallRefused(Exception):
    """Error of a call that was not executed because of invalid arguments.

    The model reads only the message, as in serving.
    """


class EpisodeTools(Protocol):
    """Tools of one episode, and the world behind them. An error raised by a call becomes its result."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Execute a call; return the result that the model reads.

        Raises:
            ToolFailure: The call failed.
            CallRefused: The call was not executed.
        """
        ...

    def state(self) -> Any:
        """Return the complete relevant state as JSON data; None if it is not judged."""
        ...


@dataclass(frozen=True, slots=True)
class EnvironmentTools:
    """Adapter from a small world in this process to the tools of an episode."""

    world: Environment

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the result: text unchanged, other data as JSON."""
        result = self.world.call(name, arguments)
        return result if isinstance(result, str) else render_json(result)

    def state(self) -> Any:
        """Return the world's state."""
        return self.world.state()


@dataclass(frozen=True, slots=True)
class Performed:
    """Executed or refused call with its result."""

    name: str
    arguments: str
    """Arguments as JSON text, as written by the policy."""
    text: str
    """Result of the tool, or the error message."""
    has_failed: bool = False
    is_refused: bool = False
    changed: bool = False
    """Whether the call changed the state of the world."""

    @property
    def shown(self) -> str:
        """Return the text that the model reads, identical to that in serving."""
        return self.text if self.is_refused else f"{self.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class Episode:
    """Record of an episode for verifiers; the type of `Completion.outcome`."""

    reply: str
    """Last turn of the policy: its answer, if it gave one."""
    ended: Ending
    calls: tuple[Performed, ...]
    start: str
    """State before the first call, as canonical JSON."""
    end: str
    n_turns: int
    """Number of turns that the policy wrote."""
    fault: str = ""
    """Reason why the world cannot be judged, not caused by the policy; empty if it can."""

    @property
    def n_changes(self) -> int:
        """Return the number of calls that changed the world."""
        return sum(call.changed for call in self.calls)

    @property
    def read(self) -> Counter[str]:
        """Return the results of the successful calls that changed nothing."""
        return Counter(
            call.text for call in self.calls if not (call.changed or call.has_failed or call.is_refused)
        )


class Witness:
    """Executes an episode's calls and records their effects on the world."""

    def __init__(self, tools: EpisodeTools) -> None:
        """Record the state of the world before the first call."""
        self._tools = tools
        self.calls: list[Performed] = []
        self.fault = ""
        self.start = self.now = self._look()

    def perform(self, name: str, arguments: str) -> Performed:
        """Execute a call and record its result or error; `arguments` is JSON text written by a model."""
        has_failed = is_refused = False
        try:
            text = self._tools.call(name, _read(arguments))
        except CallRefused as refusal:
            text, is_refused = str(refusal), True
        except ToolFailure as failure:
            text, has_failed = str(failure), True
        except Exception as error:  # any type: the arguments come from a model
            text, has_failed = f"{type(error).__name__}: {error}", True
        before, self.now = self.now, self._look()
        done = Performed(name, arguments, text, has_failed, is_refused, self.now != before)
        self.calls.append(done)
        return done

    def episode(self, reply: str, ended: Ending, n_turns: int) -> Episode:
        """Return the record of the episode."""
        return Episode(reply, ended, tuple(self.calls), self.start, self.now, n_turns, self.fault)

    def _look(self) -> str:
        try:
            return canonical(self._tools.state())
        except (
            RecursionError,
            TypeError,
            ValueError,
        ) as error:  # a model's arguments can make the state unserialisable
            return f"unreadable: {type(error).__name__}"
        except Exception as error:  # any type: the world may have stopped
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
