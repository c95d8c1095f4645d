"""Conversations that were cut apart are made whole; whole ones stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import Agent
from agentkit.history.repair import not_finished, repaired
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.testing import ScriptedModel

ASKED = ModelRequest((UserPromptPart("go"),))
CALLED = ModelResponse((ToolCallPart("add", "{}", "c1"), ToolCallPart("add", "{}", "c2")))
ANSWERED = ModelRequest((ToolReturnPart("add", "c1", "1"), RetryPromptPart("no", "add", "c2")))
SAID = ModelResponse((TextPart("done"),))


def lost(call_id: str) -> ToolReturnPart:
    return not_finished(ToolCallPart("add", "{}", call_id))


def test_a_whole_conversation_stays_as_it_is() -> None:
    whole = (ASKED, CALLED, ANSWERED, SAID, ASKED)
    assert all(one is other for one, other in zip(repaired(whole), whole, strict=True))


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ((ASKED, CALLED), (ASKED, CALLED, ModelRequest((lost("c1"), lost("c2"))))),
        ((ASKED, CALLED, SAID), (ASKED, CALLED, ModelRequest((lost("c1"), lost("c2"))), SAID)),
        (
            (ASKED, CALLED, ASKED),
            (ASKED, CALLED, ModelRequest((lost("c1"), lost("c2"), UserPromptPart("go")))),
        ),
        (
            (ASKED, CALLED, ModelRequest(ANSWERED.parts[:1])),
            (ASKED, CALLED, ModelRequest((lost("c2"), ANSWERED.parts[0]))),
        ),
        ((ANSWERED, SAID), (SAID,)),
        (
            (ASKED, ModelRequest((*ANSWERED.parts, UserPromptPart("x")))),
            (ASKED, ModelRequest((UserPromptPart("x"),))),
        ),
        (
            (ASKED, CALLED, ModelRequest((*ANSWERED.parts, ANSWERED.parts[0]))),
            (ASKED, CALLED, ANSWERED),
        ),
    ],
    ids=["cut off", "response behind", "prompt behind", "one of two", "no call", "stray", "twice"],
)
def test_what_is_missing_is_added_and_what_belongs_to_nothing_left_out(
    broken: Sequence[ModelMessage], whole: Sequence[ModelMessage]
) -> None:
    assert repaired(broken) == tuple(whole)


PARTS = st.one_of(
    st.builds(UserPromptPart, st.just("x")),
    st.builds(ToolReturnPart, st.just("add"), st.sampled_from("abc"), st.just("1")),
    st.builds(RetryPromptPart, st.just("no"), st.just("add"), st.sampled_from("abc")),
)
RESPONSES = st.lists(st.sampled_from("abc"), max_size=3, unique=True).map(
    lambda ids: ModelResponse(tuple(ToolCallPart("add", "{}", call_id) for call_id in ids))
)
MESSAGES = st.lists(st.one_of(st.lists(PARTS, max_size=4).map(lambda p: ModelRequest(tuple(p))), RESPONSES))


def responses(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    return [message for message in messages if isinstance(message, ModelResponse)]


@given(MESSAGES)
def test_whatever_it_was_it_is_whole_afterwards(messages: list[ModelMessage]) -> None:
    whole = repaired(messages)
    for before, after in zip((None, *whole), (*whole, None), strict=True):
        asked = sorted(c.tool_call_id for c in before.tool_calls) if isinstance(before, ModelResponse) else []
        parts = after.parts if isinstance(after, ModelRequest) else ()
        answered = [p.tool_call_id for p in parts if isinstance(p, (ToolReturnPart, RetryPromptPart))]
        assert asked == sorted(call_id or "" for call_id in answered)
    assert repaired(whole) == whole
    assert [m for m in whole if isinstance(m, ModelResponse)] == [
        m for m in messages if isinstance(m, ModelResponse)
    ]


@pytest.mark.anyio
async def test_a_run_goes_on_from_a_history_that_was_cut_off() -> None:
    model = ScriptedModel(["done"])
    await Agent(model).run("and now?", message_history=(ASKED, CALLED))
    assert model.calls[0].messages[2] == ModelRequest((lost("c1"), lost("c2")))
