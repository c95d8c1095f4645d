"""Our model of Anthropic's protocol against our own server of it."""

from __future__ import annotations

from typing import Literal

import pytest

from agentkit import Agent, AnthropicModel, ModelSettings, UsageLimits
from agentkit.messages import ToolReturnPart
from agentkit.testing.conformance_of_models import check_model
from tests.modelstack.inference.server.serving import NAME, Served


def our_messages_client(found: Served) -> AnthropicModel:
    return AnthropicModel(NAME, base_url=found.url, api_key="")


@pytest.mark.anyio
async def test_our_client_of_anthropics_protocol_conforms_on_our_server(tiny_server: Served) -> None:
    await check_model(lambda: our_messages_client(tiny_server))


@pytest.mark.anyio
async def test_an_agent_calls_a_tool_and_answers_over_anthropics_protocol(tiny_server: Served) -> None:
    """Random weights call a tool because `any` makes them, and answer by a call of the tool for answers."""

    def look(place: Literal["harbour", "tower"]) -> str:
        """Look at a place."""
        return f"The {place} is quiet."

    settings = ModelSettings(tool_choice="required", max_tokens=64)
    model = our_messages_client(tiny_server)
    async with Agent(model, tools=[look], settings=settings, limits=UsageLimits(request_limit=2)) as agent:
        result = await agent.run("Look at something.")
    results = [part for message in result.messages for part in message.parts if isinstance(part, ToolReturnPart)]
    assert results and {part.content for part in results} <= {"The harbour is quiet.", "The tower is quiet."}
    assert (await Agent(model, output_type=bool).run("Is it?")).output in (True, False)
