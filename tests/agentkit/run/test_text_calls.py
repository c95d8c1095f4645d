"""Calls that a model wrote as text are read, or the run says that it saw them; other text stays an answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from agentkit import Agent, UsageLimits
from agentkit.events import AgentEvent, TextCallsEvent
from agentkit.guardrails import Block, CheckedCall, Verdict, tool_call_guardrail
from agentkit.messages import ModelResponse, TextPart, ToolReturnPart
from agentkit.models.base import ModelProfile, ModelSettings
from agentkit.testing import ScriptedModel, call
from tests.agentkit.arrangements import World

pytestmark = pytest.mark.anyio


def get_weather(city: str) -> str:
    """Get the weather."""
    return f"sunny in {city}"


PLAIN = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
FORMS = [
    PLAIN,
    f"[{PLAIN}]",
    f"\n```json\n{PLAIN}\n```\n",
    f"```\n[{PLAIN}]\n```",
    f"<tool_call>\n{PLAIN}\n</tool_call>",
    f"<tool_call>{PLAIN}</tool_call>",
    f"```xml\n<tool_call>{PLAIN}</tool_call>\n```",
    f"<tool_call>\n{PLAIN}",
    '{"name": "get_weather", "parameters": {"city": "Paris"}}',
    '{"tool": "get_weather", "args": {"city": "Paris"}}',
    '{"tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", '
    '"arguments": "{\\"city\\": \\"Paris\\"}"}}]}',
    '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]',
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
]


@pytest.mark.parametrize("text", FORMS)
async def test_a_reply_that_is_a_call_of_a_known_tool_is_read(text: str) -> None:
    events: list[AgentEvent] = []
    model = ScriptedModel([text, "It is sunny."])
    result = await Agent(model, tools=[get_weather], on_event=events.append).run("x")
    assert (result.output, result.status) == ("It is sunny.", "completed")
    (told,) = result.messages[2].parts
    assert isinstance(told, ToolReturnPart) and told.content == "sunny in Paris"
    (seen,) = [event for event in events if isinstance(event, TextCallsEvent)]
    assert (seen.text, seen.tool_names, seen.n_calls, seen.problem) == (text, ("get_weather",), 1, None)
    assert isinstance(result.messages[1], ModelResponse) and not result.messages[1].text


async def test_several_calls_are_read_in_order() -> None:
    other = PLAIN.replace("Paris", "Rome")
    for text in (f"{PLAIN}\n{other}", f"[{PLAIN}, {other}]", f"```json\n{PLAIN}\n```\n```json\n{other}\n```"):
        result = await Agent(ScriptedModel([text, "ok"]), tools=[get_weather]).run("x")
        contents = [part.content for part in result.messages[2].parts if isinstance(part, ToolReturnPart)]
        assert contents == ["sunny in Paris", "sunny in Rome"]


UNREADABLE = [
    '{"name": "get_weather", "arguments": {"town": "Paris"}}',
    '{"name": "get_weather", "arguments": "Paris"}',
    '{"name": "get_weather", "arguments": {"city": "Par',
    "{'name': 'get_weather', 'arguments': {'city': 'Paris'}}",
    '```json\n{"name": "get_weather"}\n```',
    f'[{PLAIN}, {{"name": "launch", "arguments": {{}}}}]',
    '<tool_call>\n{"name": "get_weather", "arguments": {city: Paris}}\n</tool_call>',
]


@pytest.mark.parametrize("text", UNREADABLE)
async def test_a_call_as_text_that_cannot_be_read_is_retried_and_never_completed(text: str) -> None:
    events: list[AgentEvent] = []
    agent = Agent(ScriptedModel([text, text]), tools=[get_weather], on_event=events.append)
    result = await agent.run("x")
    assert (result.output, result.status) == (text, "malformed_call")
    assert [event.problem is not None for event in events if isinstance(event, TextCallsEvent)] == [True, True]
    model = ScriptedModel([text, call("get_weather", city="Paris"), "ok"])
    mended = await Agent(model, tools=[get_weather]).run("x")
    assert (mended.output, mended.status) == ("ok", "completed")


ANSWERS = [
    "The weather service returns JSON.",
    '{"city": "Paris", "temperature": 20}',
    '{"name": "get_weather", "city": "Paris"}',
    '{"name": "launch", "arguments": {"city": "Paris"}}',
    "[1, 2, 3]",
    "```python\nget_weather('Paris')\n```",
    "[get_weather] is a tool.",
]


@pytest.mark.parametrize("text", ANSWERS)
async def test_other_text_is_an_answer(text: str) -> None:
    events: list[AgentEvent] = []
    result = await Agent(ScriptedModel([text]), tools=[get_weather], on_event=events.append).run("x")
    assert (result.output, result.status) == (text, "completed")
    assert not [event for event in events if isinstance(event, TextCallsEvent)]


async def test_words_with_a_call_among_them_are_an_answer_that_listeners_are_told_of() -> None:
    events: list[AgentEvent] = []
    text = f"To ask for the weather, write\n```json\n{PLAIN}\n```\nand send it."
    result = await Agent(ScriptedModel([text]), tools=[get_weather], on_event=events.append).run("x")
    assert (result.output, result.status) == (text, "completed")
    assert [e for e in events if isinstance(e, TextCallsEvent)] == [TextCallsEvent(text, ("get_weather",), 0)]


class Step(BaseModel):
    name: str
    arguments: dict[str, str]


async def test_a_structured_answer_that_looks_like_a_call_is_an_answer() -> None:
    result = await Agent(ScriptedModel([PLAIN]), tools=[get_weather], output_type=Step).run("x")
    assert result.output == Step(name="get_weather", arguments={"city": "Paris"})


class City(BaseModel):
    city: str


async def test_a_call_as_text_in_a_structured_run_is_read() -> None:
    model = ScriptedModel([PLAIN, '{"city": "Paris"}'])
    result = await Agent(model, tools=[get_weather], output_type=City).run("x")
    assert (result.output, result.usage.tool_calls) == (City(city="Paris"), 1)


async def test_nothing_is_read_where_no_call_may_be_made() -> None:
    none = ModelSettings(tool_choice="none")
    assert (await Agent(ScriptedModel([PLAIN]), tools=[get_weather], settings=none).run("x")).output == PLAIN
    assert (await Agent(ScriptedModel([PLAIN])).run("x")).output == PLAIN
    masked = ScriptedModel([PLAIN], profile=ModelProfile(grammar=True))
    assert (await Agent(masked, tools=[get_weather]).run("x")).output == PLAIN
    last = await Agent(ScriptedModel([PLAIN]), tools=[get_weather], limits=UsageLimits(request_limit=1)).run("x")
    assert (last.status, last.usage.tool_calls) == ("limit_reached", 0)


async def test_a_call_that_echoes_untrusted_text_asks_like_any_call() -> None:
    world = World()
    pay = dataclasses.replace(world.pay(consequential=True), is_untrusted=False)
    model = ScriptedModel([call("read_web"), '{"name": "pay", "arguments": {"amount": 5}}', "done"])
    agent = Agent(model, tools=[world.read(), pay])
    result = await agent.run("x")
    assert (result.status, world.paid, len(result.pending)) == ("needs_approval", [], 1)
    assert "untrusted content" in result.pending[0].reason
    denied = await agent.resume(result.state, [result.pending[0].deny()])
    assert (denied.output, world.paid) == ("done", [])


async def test_a_guardrail_checks_a_call_that_was_text() -> None:
    @tool_call_guardrail
    def no(checked: CheckedCall, context: Any) -> Verdict:
        return Block("no")

    world = World()
    model = ScriptedModel(['{"name": "pay", "arguments": {"amount": 5}}', "done"])
    result = await Agent(model, tools=[world.pay()], guardrails=[no]).run("x")
    (told,) = result.messages[2].parts
    assert isinstance(told, ToolReturnPart) and told.text.startswith("The call was blocked")
    assert world.paid == []


async def test_an_inner_run_that_ends_with_such_a_text_says_so() -> None:
    inner = Agent(ScriptedModel([UNREADABLE[0]]), tools=[get_weather], name="inner", retries=0)
    outer = Agent(ScriptedModel([call("inner", task="x"), "ok"]), tools=[inner.as_tool("Asks.")])
    (told,) = (await outer.run("x")).messages[2].parts
    assert isinstance(told, ToolReturnPart) and "could not be read" in told.content


async def test_a_truncated_call_as_text_is_truncated() -> None:
    cut = ModelResponse((TextPart('{"name": "get_weather", "arguments": {"ci'),), finish_reason="length")
    assert (await Agent(ScriptedModel([cut]), tools=[get_weather]).run("x")).status == "truncated"
