"""Which events an outbox gives to which write."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentkit import ModelResponse, TextPart
from agentkit.events import AgentEvent, ModelResponseEvent, TextDeltaEvent, ToolCallDeltaEvent
from agentkit.persistence.outbox import Outbox, SentEvent

TEXT = TextDeltaEvent("I add.")
RESPONSE = ModelResponseEvent(1, ModelResponse((TextPart("I add."),)), 0.1, None, None)


def piece(arguments: str, index: int = 0) -> ToolCallDeltaEvent:
    return ToolCallDeltaEvent(index, "add", arguments)


def events_of(sent: list[SentEvent]) -> list[AgentEvent]:
    return [event for _, event in sent]


@pytest.mark.parametrize("n_calls", [1, 2])
def test_pieces_of_calls_are_left_out_if_the_response_comes_before_a_write(n_calls: int) -> None:
    outbox = Outbox()
    outbox(TEXT)
    for index in range(n_calls):
        outbox(piece('{"a":', index))
        outbox(piece("1}", index))
    outbox(RESPONSE)
    assert events_of(outbox.with_state()) == [TEXT, RESPONSE]


@pytest.mark.parametrize("take", [Outbox.alone, Outbox.with_state])
def test_pieces_behind_a_stored_one_are_kept_so_that_readers_can_join_them(
    take: Callable[[Outbox], list[SentEvent]],
) -> None:
    outbox = Outbox()
    outbox(piece('{"a":'))
    assert events_of(take(outbox)) == [piece('{"a":')]
    outbox(piece("1}"))
    outbox(RESPONSE)
    assert events_of(outbox.with_state()) == [piece("1}"), RESPONSE]


def test_each_response_is_judged_by_its_own_pieces() -> None:
    outbox = Outbox()
    outbox(piece("{"))
    outbox.alone()
    outbox(RESPONSE)
    outbox(piece("{}"))
    outbox(RESPONSE)
    assert events_of(outbox.with_state()) == [RESPONSE, RESPONSE]
