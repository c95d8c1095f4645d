"""How a run says that it ended: a whole answer, one that was cut off or filtered, a limit that cut it short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from pydantic import BaseModel

from agentkit import Agent, ModelRetry, RunContext, UnexpectedModelBehavior, UsageLimits
from agentkit.events import AgentEvent, ModelRequestEvent, RunFinishedEvent
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence import InMemoryCheckpointer, InMemorySession
from agentkit.run.actions import OutputRejected
from agentkit.run.decide import step
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tracing.reading import summarise

pytestmark = pytest.mark.anyio

CutShort = Literal["length", "content_filter"]
STATUSES: list[tuple[CutShort, str]] = [("length", "truncated"), ("content_filter", "filtered")]


class City(BaseModel):
    name: str


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def said(text: str, reason: CutShort, *calls: ToolCallPart) -> ModelResponse:
    parts = (TextPart(text),) if text else ()
    return ModelResponse((*parts, *calls), finish_reason=reason)


@pytest.mark.parametrize(("reason", "status"), STATUSES)
async def test_an_answer_that_was_cut_off_or_filtered_says_so_everywhere(
    reason: CutShort, status: str, tmp_path: Path
) -> None:
    events: list[AgentEvent] = []
    keeper = InMemoryCheckpointer()
    agent = Agent(
        ScriptedModel([call("add", a=1, b=2), said("The sum is", reason)]),
        tools=[add],
        trace=tmp_path,
        on_event=events.append,
        checkpointer=keeper,
    )
    result = await agent.run("x")
    assert (result.output, result.status) == ("The sum is", status)
    assert [event.status for event in events if isinstance(event, RunFinishedEvent)] == [status]
    assert summarise(tmp_path / f"{result.run_id}.jsonl").status == status
    assert (await keeper.load(result.run_id)).summary.status == status
    again = await agent.resume(result.run_id)
    assert (again.output, again.status) == ("The sum is", status)


@pytest.mark.parametrize(("reason", "status"), STATUSES)
async def test_a_response_without_an_answer_ends_without_one_and_is_not_asked_for_again(
    reason: CutShort, status: str
) -> None:
    model = ScriptedModel([said("", reason)])
    result = await Agent(model).run("x")
    assert (result.output_or_none, result.status) == (None, status)
    model.assert_complete()


@pytest.mark.parametrize(("reason", "status"), STATUSES)
async def test_a_structured_answer_that_cannot_be_read_is_not_retried(reason: CutShort, status: str) -> None:
    model = ScriptedModel([said('{"name": "Par', reason)])
    result = await Agent(model, output_type=City).run("x")
    assert (result.output_or_none, result.status) == (None, status)
    whole = await Agent(ScriptedModel([said('{"name": "Paris"}', reason)]), output_type=City).run("x")
    assert (whole.output, whole.status) == (City(name="Paris"), status)


async def test_a_validator_that_wants_more_of_a_truncated_answer_ends_the_run() -> None:
    agent = Agent(ScriptedModel([said("half", "length")]))

    @agent.output_validator
    async def check(_context: RunContext[None], _output: str) -> str:
        raise ModelRetry("longer, please")

    result = await agent.run("x")
    assert (result.output_or_none, result.status) == (None, "truncated")


async def test_the_calls_of_a_filtered_response_are_answered_and_not_run() -> None:
    ran: list[int] = []

    def write(n: int) -> None:
        ran.append(n)

    agent = Agent(ScriptedModel([said("no", "content_filter", call("write", n=1))]), tools=[write])
    result = await agent.run("x")
    assert (result.status, ran) == ("filtered", [])
    last = result.messages[-1]
    assert isinstance(last, ModelRequest) and isinstance(last.parts[0], ToolReturnPart)
    assert last.parts[0].text.startswith("Not run")


@pytest.mark.parametrize("arguments", ["", '{"folder": "/tm', '{"folder": "/tm"}'])
async def test_a_call_that_was_cut_off_is_not_run_and_the_model_is_told(arguments: str) -> None:
    cleared: list[str] = []

    def clear(folder: str = "/") -> str:
        cleared.append(folder)
        return "cleared"

    model = ScriptedModel([said("", "length", ToolCallPart("clear", arguments, "c1")), "done"])
    result = await Agent(model, tools=[clear]).run("x")
    assert (result.output, result.status, cleared) == ("done", "completed", [])
    (told,) = result.messages[2].parts
    assert "cut off" in cast(Any, told).content


@pytest.mark.parametrize("limits", [UsageLimits(request_limit=1), UsageLimits(tool_calls_limit=0)])
async def test_a_plain_answer_at_the_first_request_is_complete(limits: UsageLimits) -> None:
    result = await Agent(ScriptedModel(["hello"]), tools=[add], limits=limits).run("x")
    assert (result.output, result.status) == ("hello", "completed")


async def test_a_truncated_answer_within_one_request_is_truncated() -> None:
    agent = Agent(ScriptedModel([said("hel", "length")]), tools=[add], limits=UsageLimits(request_limit=1))
    assert (await agent.run("x")).status == "truncated"


async def test_a_call_within_one_request_is_a_limit_that_cut_the_run_short() -> None:
    model = ScriptedModel([[call("add", a=1, b=2)]])
    result = await Agent(model, tools=[add], limits=UsageLimits(request_limit=1)).run("x")
    assert (result.output_or_none, result.status) == (None, "limit_reached")


def forever(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    if parameters.tool_choice == "none":
        return ModelResponse((TextPart("as far as I got"),))
    return ModelResponse((call("add", a=1, b=1),))


async def test_the_note_of_a_limit_is_sent_and_not_kept(tmp_path: Path) -> None:
    events: list[AgentEvent] = []
    asked: list[tuple[Sequence[ModelMessage], ModelRequestParameters]] = []

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        asked.append((messages, parameters))
        return forever(messages, parameters)

    session = InMemorySession()
    agent = Agent(
        FunctionModel(model),
        tools=[add],
        instructions="Use tools.",
        limits=UsageLimits(request_limit=3),
        on_event=events.append,
    )
    result = await agent.run("x", session=session)
    assert (result.output, result.status) == ("as far as I got", "limit_reached")
    messages, parameters = asked[-1]
    last = messages[-1]
    assert isinstance(last, ModelRequest) and len(last.parts) == 1 and isinstance(last.parts[0], ToolReturnPart)
    assert last.parts[0].text.startswith("2\n") and "request_limit=3 is reached" in last.parts[0].content
    opening, *between = messages[:-1]
    assert opening.parts == (SystemPromptPart("Use tools."), *result.messages[0].parts)
    assert tuple(between) == result.messages[1:4]
    assert parameters.tool_choice == "none" and [tool.name for tool in parameters.tools] == ["add"]
    assert parameters.callable_tools == ()
    for kept in (result.messages, (await session.load()).messages):
        assert "is reached" not in str(kept)
    noted = [event.note for event in events if isinstance(event, ModelRequestEvent)]
    assert noted[:-1] == [None, None]
    assert noted[-1] is not None and last.parts[0].text.endswith(noted[-1])
    await agent.run("again", session=session, limits=UsageLimits(request_limit=1))
    assert "is reached" not in str(asked[-1][0])


async def test_a_prompt_at_the_first_request_has_no_note() -> None:
    model = ScriptedModel(["hello"])
    await Agent(model, tools=[add], limits=UsageLimits(request_limit=1)).run("x")
    assert model.calls[0].messages == (ModelRequest((UserPromptPart("x"),)),)


async def test_a_run_that_is_resumed_at_its_limit_is_told_again() -> None:
    keeper = InMemoryCheckpointer()
    asked: list[Any] = []
    fails = True

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        asked.append(messages[-1])
        if parameters.tool_choice == "none" and fails:
            raise RuntimeError("gone")
        return forever(messages, parameters)

    agent = Agent(FunctionModel(model), tools=[add], limits=UsageLimits(request_limit=2), checkpointer=keeper)
    with pytest.raises(RuntimeError) as caught:
        await agent.run("x")
    fails = False
    result = await agent.resume(cast(Any, caught.value).state.run_id)
    assert result.status == "limit_reached"
    assert asked[-1] == asked[-2] and "is reached" in str(asked[-1])


def test_a_truncated_answer_that_is_rejected_finishes() -> None:
    from agentkit.run.actions import Finish, ReadOutput
    from agentkit.run.admission import LoopRules
    from agentkit.run.state import RunState

    rules = LoopRules(max_retries={})
    state, _ = step(RunState(), ModelRequest((UserPromptPart("x"),)), rules)
    response = said("half", "length")
    state, action = step(state, response, rules)
    assert action == ReadOutput(response, "truncated")
    assert step(state, OutputRejected("no"), rules)[1] == Finish("truncated")


@pytest.mark.parametrize(("reason", "status"), STATUSES)
async def test_an_agent_is_told_that_the_answer_of_another_one_is_not_whole(reason: CutShort, status: str) -> None:
    inner = Agent(ScriptedModel([said("The sum is", reason)]), name="adder")
    outer = Agent(ScriptedModel([call("adder", task="add"), "done"]), tools=[inner.as_tool("Adds.")])
    result = await outer.run("x")
    (told,) = result.messages[2].parts
    assert isinstance(told, ToolReturnPart)
    assert told.text.startswith("The sum is\n[") and not told.is_error


async def test_an_answer_that_ended_with_an_error_is_asked_for_again() -> None:
    broken = ModelResponse((TextPart("Half an ans"),), finish_reason="error")
    model = ScriptedModel([broken, "A whole answer."])
    result = await Agent(model).run("Go.")
    assert (result.status, result.output) == ("completed", "A whole answer.")
    with pytest.raises(UnexpectedModelBehavior, match="ended with an error"):
        await Agent(ScriptedModel([broken, broken]), retries=1).run("Go.")
