"""Our own client of the responses endpoint: text, tools, structured output, thoughts and streams."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from agentkit import Agent, ModelHTTPError, ModelSettings, OpenAIResponsesModel
from agentkit.errors import ContextWindowExceeded
from agentkit.messages import ModelRequest, ModelResponse, ThinkingPart, ToolReturnPart, UserPromptPart
from agentkit.models.base import (
    ModelDelta,
    ModelRequestParameters,
    OutputSchema,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from agentkit.testing.conformance_of_models import check_model
from agentkit.tools.definition import ToolDefinition
from tests.modelstack.inference.server.serving import NAME, Served
from tests.modelstack.inference.server.test_official_clients import ANSWER, WEATHER

pytestmark = pytest.mark.anyio
ASKED = ModelRequest((UserPromptPart("Will it rain?"),))
WARM = ModelSettings(temperature=1.5, max_tokens=120)
FUNCTIONS = (ToolDefinition("weather", "Forecast.", WEATHER), ToolDefinition("now", "The time."))


def client(found: Served, **options: Any) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(NAME, base_url=f"{found.url}/v1", api_key="", **options)


async def asked(model: OpenAIResponsesModel, streams: bool, **options: Any) -> ModelResponse:
    """Return a response; the deltas of a streamed one must add up to it."""
    parameters = ModelRequestParameters(**{"settings": WARM, **options})
    if not streams:
        return await model.request((ASKED,), parameters)
    deltas: list[ModelDelta] = []
    response = await model.request((ASKED,), parameters, on_delta=deltas.append)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == response.text
    names = [delta.tool_name for delta in deltas if isinstance(delta, ToolCallDelta) and delta.tool_name]
    assert names == [call.tool_name for call in response.tool_calls]
    thoughts = "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
    assert "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta)) == thoughts
    return response


both = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


async def test_our_responses_client_conforms_on_our_server(tiny_server: Served) -> None:
    await check_model(lambda: client(tiny_server))


@both
async def test_text_with_its_usage(tiny_server: Served, streams: bool) -> None:
    response = await asked(client(tiny_server), streams, settings=ModelSettings(max_tokens=8))
    assert response.model_name == NAME and response.finish_reason == "length"
    assert response.usage.input_tokens > 0 and response.usage.output_tokens == 8


@both
@pytest.mark.parametrize("choice", ["auto", "required", "none"])
async def test_calls_and_their_choice(tiny_server: Served, choice: Any, streams: bool) -> None:
    response = await asked(client(tiny_server), streams, tools=FUNCTIONS, tool_choice=choice)
    for call in response.tool_calls:
        tool = next(each for each in FUNCTIONS if each.name == call.tool_name)
        jsonschema.validate(call.arguments_dict(), dict(tool.parameters_json_schema))
    assert choice != "none" or not response.tool_calls
    assert choice != "required" or response.tool_calls


@pytest.mark.parametrize("narrows", [False, True], ids=["fewer tools", "allowed_tools"])
async def test_only_what_is_allowed_is_called(tiny_server: Served, narrows: bool) -> None:
    model = client(tiny_server, narrow_by_choice=narrows)
    name = FUNCTIONS[-1].name
    for _ in range(4):
        allowed = frozenset({name})
        response = await asked(model, False, tools=FUNCTIONS, allowed_tools=allowed, tool_choice="required")
        assert {call.tool_name for call in response.tool_calls} == {name}
    refrained = await asked(model, False, tools=FUNCTIONS, allowed_tools=frozenset[str]())
    assert not refrained.tool_calls


@both
async def test_a_structured_answer(tiny_server: Served, streams: bool) -> None:
    response = await asked(client(tiny_server), streams, output=OutputSchema("answer", ANSWER))
    assert response.finish_reason == "stop"
    jsonschema.validate(json.loads(response.text), ANSWER)


@both
async def test_a_thought_is_kept_and_may_return(tiny_server: Served, streams: bool) -> None:
    model = client(tiny_server)
    settings = ModelSettings(max_tokens=40, extra_body={"thinking_tokens": 6})
    response = await asked(model, streams, tools=FUNCTIONS, tool_choice="required", settings=settings)
    (thought,) = [part for part in response.parts if isinstance(part, ThinkingPart)]
    assert thought.content and thought.provider == "openai" and thought.signature
    answers = ModelRequest(tuple(ToolReturnPart(c.tool_name, c.tool_call_id, "rain") for c in response.tool_calls))
    followed = await model.request(
        (ASKED, response, answers), ModelRequestParameters(tools=FUNCTIONS, settings=ModelSettings(max_tokens=8))
    )
    assert followed.usage.input_tokens > response.usage.input_tokens


async def test_an_agent_gets_a_typed_output_over_responses(tiny_server: Served) -> None:
    result = await Agent(client(tiny_server), output_type=bool).run("Is it?")
    assert result.output in (True, False)


async def test_a_conversation_that_is_too_long_is_told_as_such(tiny_server: Served) -> None:
    long = ModelRequest((UserPromptPart("rain " * 20_000),))
    with pytest.raises(ContextWindowExceeded):
        await client(tiny_server).request((long,), ModelRequestParameters())
    with pytest.raises(ModelHTTPError, match="unknown"):
        await client(tiny_server).request(
            (ASKED,), ModelRequestParameters(settings=ModelSettings(extra_body={"unknown": 1}))
        )
