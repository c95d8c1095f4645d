"""Calls that a model repeats although it already has their result.

Two rules, both pure functions of the conversation, so that a resumed run makes the same decision:

- Equal calls of one reply (same tool, same canonical arguments) run once, and each gets the result. This applies
  to every tool: a model that requests an effect twice in one reply does so more often by mistake than on purpose.
- A call that was made in two replies of a run and returned the same result both times does not run a third time.
  The model is told so; if it makes the call once more, the tool is withdrawn for the rest of the run.

A result may be outdated after a change. So the second rule starts counting again after a successful call that is
new, not read-only and not equal to this one, and after a user message. Results that differ (a poll, a clock) are
not repetitions. `Tool.allows_repeats` exempts a tool from both rules.

A 1.5B model made 54 equal failing calls in seven replies, until its context window was full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from agentkit.approvals.pending import canonical_arguments
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    with_line,
)
from agentkit.run.state import CallAnswer, RunState

MAX_EQUAL_RESULTS = 2
"""Number of equal results of equal calls after which the call is not run again: one repetition may be a check."""

REPEAT_OF = "repeat_of"
"""Key in the `data` of the answer to a repeated call; its value is the id of the call that has the result."""

_COPIED = "[The same call stands more than once in this reply. It ran once; this is its result.]"
_NOT_RUN = (
    f"Not run: the same call was made {MAX_EQUAL_RESULTS} times in this run and gave the same result each time. "
    f"Use that result, change the arguments, or answer."
)
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A call that is not run again."""

    first_id: str
    """Id of the call that has the result."""
    is_told: bool
    """True if the model was told before, so that the tool is withdrawn now."""

    def answer(self, call: ToolCallPart) -> ToolReturnPart:
        """Return the answer to the repeated call."""
        content = _NOT_RUN
        if self.is_told:
            content += f" {call.tool_name!r} cannot be called any more in this run."
        return ToolReturnPart(
            call.tool_name, call.tool_call_id, content, {REPEAT_OF: self.first_id}, is_error=True
        )


def repeat_of(part: object) -> str | None:
    """Return the id of the call that has the result if a part answers a repeated call; else None."""
    if not isinstance(part, ToolReturnPart) or not part.is_error:
        return None
    data = cast("object", part.data)
    return str(cast("dict[str, Any]", data)[REPEAT_OF]) if isinstance(data, dict) and REPEAT_OF in data else None


def is_repeat(part: object) -> bool:
    """Return whether a part answers a repeated call."""
    return repeat_of(part) is not None


def repeated_calls(messages: Sequence[ModelMessage]) -> tuple[ToolCallPart, ...]:
    """Return the calls of a conversation that were not run because they were repeated."""
    answered = (pair for place in range(len(messages) - 1) for pair in _answered(messages, place))
    return tuple(call for call, part in answered if is_repeat(part))


def copies(calls: Sequence[ToolCallPart], exempt: Collection[str]) -> dict[str, str]:
    """Map the id of each call that repeats an earlier one of the same reply to the id of the earlier one."""
    if len(calls) < 2 or len({call.tool_name for call in calls}) == len(calls):
        return {}
    first: dict[_Key, str] = {}
    found: dict[str, str] = {}
    for call in calls:
        if call.tool_name not in exempt:
            first_id = first.setdefault(_key(call), call.tool_call_id)
            if first_id != call.tool_call_id:
                found[call.tool_call_id] = first_id
    return found


def with_copies(parts: Sequence[Any], copied: Mapping[str, str], response: ModelResponse) -> list[Any]:
    """Add the answers to calls that repeat another call of their reply; return all in call order."""
    by_id = {part.tool_call_id: part for part in parts}
    for call_id, first_id in copied.items():
        if call_id not in by_id and (first := by_id.get(first_id)) is not None:
            content = first.content if is_repeat(first) else with_line(first.content, _COPIED)
            by_id[call_id] = replace(first, tool_call_id=call_id, content=content)
    order = {call.tool_call_id: index for index, call in enumerate(response.tool_calls)}
    return sorted(by_id.values(), key=lambda part: order[part.tool_call_id])


@dataclass(slots=True)
class _Alike:
    """Calls with the same sketch."""

    unread: list[tuple[ToolCallPart, int]] = field(default_factory=list[tuple[ToolCallPart, int]])
    """Calls whose canonical arguments are not computed yet, with the indices of their responses."""
    places: dict[_Key, list[int]] = field(default_factory=dict[_Key, list[int]])


class CallIndex:
    """Index that finds the calls of a conversation that equal a given call; grows with the messages."""

    def __init__(self) -> None:
        """Start empty."""
        self._begin(0)

    def earlier(self, state: RunState, call: ToolCallPart, before: int) -> list[int]:
        """Return the indices of the responses before message `before` that contain an equal call, in order."""
        self._read(state)
        alike = self._made.get(_sketch(call))
        if alike is None or (not alike.places and alike.unread[0][1] >= before):
            return []
        for made, place in alike.unread:
            places = alike.places.setdefault(_key(made), [])
            if not places or places[-1] != place:
                places.append(place)
        alike.unread.clear()
        return [place for place in alike.places.get(_key(call), ()) if place < before]

    def _begin(self, start: int) -> None:
        self._start = start
        self._n_read = start
        self._last: ModelMessage | None = None
        self._made: dict[tuple[str, int], _Alike] = {}

    def _read(self, state: RunState) -> None:
        messages, start = state.messages, _start(state)
        goes_on = len(messages) >= self._n_read and (
            self._last is None or messages[self._n_read - 1] is self._last
        )
        if start != self._start or not goes_on:
            self._begin(start)
        for place in range(self._n_read, len(messages)):
            message = messages[place]
            if isinstance(message, ModelResponse):
                for call in message.tool_calls:
                    self._made.setdefault(_sketch(call), _Alike()).unread.append((call, place))
        if len(messages) > self._n_read:
            self._n_read, self._last = len(messages), messages[-1]


def repeated(state: RunState, call: ToolCallPart, index: CallIndex, read_only: Collection[str]) -> Repeat | None:
    """Return the repetition that a call of the last response makes; None if the call must run."""
    here = len(state.messages) - 1
    places = index.earlier(state, call, here)
    if len(places) < MAX_EQUAL_RESULTS:
        return None
    results: list[tuple[int, CallAnswer]] = []
    is_told = False
    for place in reversed(places):
        part = _answer(state.messages, place, call)
        if part is None:
            return None
        if not is_repeat(part):
            results.append((place, part))
            if len(results) == MAX_EQUAL_RESULTS:
                break
        elif not results:
            is_told = True
    if len(results) < MAX_EQUAL_RESULTS or any(not _is_same(part, results[0][1]) for _, part in results[1:]):
        return None
    if _has_changed(state, call, results[0][0], index, read_only):
        return None
    return Repeat(results[-1][1].tool_call_id or "", is_told)


def _has_changed(
    state: RunState, call: ToolCallPart, since: int, index: CallIndex, read_only: Collection[str]
) -> bool:
    """Return whether an event since the response at `since` may have changed the result of `call`."""
    messages = state.messages
    for place in range(since, len(messages) - 1):
        message = messages[place]
        if isinstance(message, ModelRequest):
            if place > since and any(isinstance(part, UserPromptPart) for part in message.parts):
                return True
            continue
        for other, part in _answered(messages, place):
            if other.tool_name in read_only or isinstance(part, RetryPromptPart) or part.is_error:
                continue
            if _key(other) != _key(call) and not _gave_the_same(state, other, part, place, index):
                return True
    return False


def _gave_the_same(state: RunState, call: ToolCallPart, part: CallAnswer, place: int, index: CallIndex) -> bool:
    """Return whether an earlier equal call had the same result, so that this call changed nothing."""
    earlier = (_answer(state.messages, each, call) for each in index.earlier(state, call, place))
    return any(each is not None and _is_same(each, part) for each in earlier)


def _answer(messages: Sequence[ModelMessage], place: int, call: ToolCallPart) -> CallAnswer | None:
    """Return the answer to the first call of the response at `place` that equals `call`."""
    key = _key(call)
    return next((part for made, part in _answered(messages, place) if _key(made) == key), None)


def _answered(
    messages: Sequence[ModelMessage], place: int
) -> Iterator[tuple[ToolCallPart, ToolReturnPart | RetryPromptPart]]:
    response, request = messages[place], messages[place + 1]
    if not isinstance(response, ModelResponse) or not isinstance(request, ModelRequest):
        return
    answers = {part.tool_call_id: part for part in _results(request.parts)}
    for call in response.tool_calls:
        if (part := answers.get(call.tool_call_id)) is not None:
            yield call, part


def _results(parts: Sequence[ModelRequestPart]) -> Iterator[ToolReturnPart | RetryPromptPart]:
    return (part for part in parts if isinstance(part, ToolReturnPart | RetryPromptPart))


def _is_same(one: CallAnswer, other: CallAnswer) -> bool:
    if isinstance(one, RetryPromptPart) or isinstance(other, RetryPromptPart):
        return type(one) is type(other) and one.content == other.content
    return (one.content, one.is_error) == (other.content, other.is_error)


def _start(state: RunState) -> int:
    """Return the index of the first message of the current agent's part of the run."""
    return state.handed[-1].at if state.handed else state.n_history


def _key(call: ToolCallPart) -> _Key:
    return call.tool_name, canonical_arguments(call.arguments)


def _sketch(call: ToolCallPart) -> tuple[str, int]:
    """Return a cheap hash key: equal calls share it, and it takes a tenth of the time of the canonical form.

    The key counts the characters that are not blanks. Text with a backslash is made canonical first, because an
    escape may be another spelling of a character.
    """
    text = call.arguments or "{}"
    if "\\" in text:
        text = canonical_arguments(text)
    return call.tool_name, len(text) - text.count(" ") - text.count("\n") - text.count("\t")
