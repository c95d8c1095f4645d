"""Events of a run as OpenAI's responses: text written again, rejected, changed or blocked; thoughts; calls."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from agentkit import ModelResponse
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFinishedEvent,
    RunRequestedEvent,
    RunResumedEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import ModelRequest, RetryPromptPart, TextPart
from agentkit.persistence.checkpointer import RunSummary
from agentkit.persistence.stored_events import StoredEvent, event_to_json
from agentkit.serving.response_events import RunResponses
from agentkit.testing import call
from agentkit.usage import RunUsage

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def told(*events: AgentEvent) -> tuple[list[dict[str, Any]], RunResponses]:
    """Return the stream of a run with some events behind its beginning."""
    first = [RunRequestedEvent("run_1", "go"), RunStartedEvent("run_1", None, "m", ())]
    responses = RunResponses(RunSummary("run_1", None, "running", 0.0, 0.0), "agent")
    found: list[dict[str, Any]] = []
    for number, event in enumerate([*first, *events], start=1):
        found += responses.told(StoredEvent(number, float(number), event_to_json(event)))
    for each in found:
        EVENTS.validate_python(each)
    return found, responses


def asked_for(*parts: RetryPromptPart) -> ModelRequestEvent:
    return ModelRequestEvent(1, (ModelRequest(parts),), ())


def replied(text: str) -> ModelResponseEvent:
    return ModelResponseEvent(1, ModelResponse((TextPart(text),)), 0.1)


def finished(status: str, output: Any) -> RunFinishedEvent:
    return RunFinishedEvent("run_1", status, output, RunUsage(input_tokens=7, cache_read_tokens=2), None, 0.1)


RESUMED = RunResumedEvent("run_1", None, "m", (), 0)


@pytest.mark.parametrize(
    ("events", "texts", "status"),
    [
        (
            [asked_for(), TextDeltaEvent("Hel"), RESUMED, asked_for(), TextDeltaEvent("Hi"), replied("Hi")],
            "Hi",
            "",
        ),
        ([asked_for(), replied("7"), asked_for(RetryPromptPart("no number")), replied("Hi")], "Hi", ""),
        ([asked_for(), replied("First.|"), asked_for(), replied("Hi")], "First.|Hi", ""),
        ([asked_for(), TextDeltaEvent("Ho"), replied("Ho")], "Hi", ""),
        ([asked_for(), replied("Ho")], "", "refused"),
        ([asked_for(), replied("H")], "H", "truncated"),
    ],
    ids=["killed", "rejected", "further", "rewritten", "blocked", "truncated"],
)
def test_the_text_of_a_response_is_the_text_that_holds(events: list[Any], texts: str, status: str) -> None:
    output = None if status else "Hi"
    stream, responses = told(*events, finished(status or "completed", output))
    shown = Response.model_validate(responses.last.shown())
    assert shown.output_text == texts and stream[-1]["response"] == responses.last.shown()
    reason = {"refused": "content_filter", "truncated": "max_output_tokens"}.get(status)
    assert shown.status == ("completed" if reason is None else "incomplete")
    assert reason is None or (shown.incomplete_details and shown.incomplete_details.reason == reason)


def test_a_thought_is_an_item_of_its_own_and_usage_is_that_of_the_response() -> None:
    _, responses = told(
        asked_for(), ThinkingDeltaEvent("Hm"), TextDeltaEvent("Hi"), replied("Hi"), finished("completed", "Hi")
    )
    shown = Response.model_validate(responses.last.shown())
    assert [item.type for item in shown.output] == ["reasoning", "message"]
    assert shown.usage is not None
    assert (shown.usage.total_tokens, shown.usage.input_tokens_details.cached_tokens) == (7, 2)


def test_a_structured_output_without_text_is_told_as_json() -> None:
    stream, responses = told(asked_for(), finished("completed", {"n": 1}))
    assert Response.model_validate(responses.last.shown()).output_text == '{"n":1}'
    assert [event["delta"] for event in stream if event["type"] == "response.output_text.delta"] == ['{"n":1}']


def test_a_call_that_began_twice_or_never_is_told_once() -> None:
    wanted = call("file", word="a"), call("file", word=1)
    first, second = (each.tool_call_id for each in wanted)
    begins = ToolCallEvent("file", first, '{"word": "a"}')
    fault = asked_for(RetryPromptPart("word must be a text", "file", second))
    stream, responses = told(
        asked_for(),
        ModelResponseEvent(1, ModelResponse(wanted), 0.1),
        begins,
        RESUMED,
        begins,
        ToolResultEvent("file", first, "filed a", "success", 0.1),
        fault,
        RESUMED,
        fault,
        replied("Hi"),
        finished("completed", "Hi"),
    )
    shown = Response.model_validate(responses.last.shown())
    calls = [item for item in shown.output if item.type == "mcp_call"]
    assert [(item.arguments, item.output, item.status) for item in calls] == [
        ('{"word": "a"}', "filed a", "completed"),
        ('{"word": 1}', None, "failed"),
    ]
    assert calls[1].error is not None and len(shown.output) == 3
    assert [event["type"] for event in stream].count("response.output_item.done") == 3
