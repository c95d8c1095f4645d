"""OpenAI's client of the responses endpoint, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.responses import Response

from tests.modelstack.inference.server.serving import NAME, Served
from tests.modelstack.inference.server.test_official_clients import ANSWER, CHOICES, TOOLS, check_calls

FUNCTIONS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
SCHEMA: Any = {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER}}


@pytest.fixture(scope="module")
def responses(tiny_server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client.responses


def asked(responses: Any, streams: bool, **options: Any) -> Response:
    """Return a response; a streamed one is that of its last event, which the events before must add up to."""
    options = {"model": NAME, "max_output_tokens": 120, "temperature": 1.5, **options}
    if not streams:
        return responses.create(**options)
    events = list(responses.create(**options, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.id for item in done] == [item.id for item in last.response.output]
    for item in done:
        own = [event for event in events if getattr(event, "item_id", "") == item.id]
        pieces = [event.delta for event in own if event.type.endswith(".delta")]
        text = item.arguments if item.type == "function_call" else item.content[0].text
        assert "".join(pieces) == text
    return last.response


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("wanted", ["text", "schema"])
@pytest.mark.parametrize("choice", CHOICES)
def test_choice_and_format_hold(responses: Any, choice: str, wanted: str, streams: bool) -> None:
    chosen = {"type": "function", "name": "weather"} if choice == "named" else CHOICES[choice]
    forces = choice in ("required", "named")
    options: dict[str, Any] = {"input": "Will it rain?", "tools": FUNCTIONS, "tool_choice": chosen}
    if wanted == "schema":
        options["text"] = SCHEMA
    if forces and wanted == "schema":
        with pytest.raises(openai.BadRequestError, match="no answer that text.format could describe"):
            asked(responses, streams, **options)
        return
    for _ in range(4):
        response = asked(responses, streams, **options)
        calls = [item for item in response.output if item.type == "function_call"]
        check_calls([{"id": c.call_id, "name": c.name, "arguments": c.arguments} for c in calls])
        assert not (choice == "none" and calls)
        assert not forces or calls
        assert choice != "named" or [call.name for call in calls] == ["weather"]
        if wanted == "schema" and not calls and response.status == "completed":
            jsonschema.validate(json.loads(response.output_text), ANSWER)


def test_a_conversation_goes_on_with_its_own_output(responses: Any) -> None:
    options: dict[str, Any] = {"tools": FUNCTIONS, "instructions": "Be brief.", "temperature": 0}
    messages: list[Any] = [{"role": "user", "content": "Will it rain?"}]
    first = asked(responses, False, input=messages, tool_choice="required", **options)
    messages += [item.model_dump(exclude_none=True) for item in first.output]
    messages += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = asked(responses, False, input=messages, **options)
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1


def test_a_thought_is_an_item_before_the_message(responses: Any) -> None:
    for streams in (False, True):
        response = asked(responses, streams, input="Think.", extra_body={"thinking_tokens": 6})
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens >= 6


def test_what_would_need_a_store_is_refused(responses: Any) -> None:
    for field, value in (("store", True), ("previous_response_id", "resp_1"), ("conversation", "c")):
        with pytest.raises(openai.BadRequestError) as found:
            responses.create(model=NAME, input="x", **{field: value})
        assert found.value.param == field
    with pytest.raises(openai.BadRequestError, match="'c9' does not follow that call"):
        item = {"type": "function_call_output", "call_id": "c9", "output": "x"}
        responses.create(model=NAME, input=[item])


def test_only_allowed_tools_are_called(responses: Any) -> None:
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    for _ in range(4):
        response = asked(responses, False, input="Will it rain?", tools=FUNCTIONS, tool_choice=allowed)
        assert {item.name for item in response.output if item.type == "function_call"} == {"now"}
    allowed["tools"].append({"type": "function", "name": "snow"})
    with pytest.raises(openai.BadRequestError, match="names the tool 'snow'"):
        responses.create(model=NAME, input="x", tools=FUNCTIONS, tool_choice=allowed)
