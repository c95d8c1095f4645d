"""`prepare_tools` chooses and changes the tools of each step: masked where possible, refused if called anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelResponse, ModelSettings, RunContext, UsageLimits, UserError
from agentkit.events import AgentEvent, ModelRequestEvent, PlanEvent
from agentkit.messages import ModelRequest, RetryPromptPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence import state_from_json, state_to_json
from agentkit.planning import PlanTemplate, TemplateStep
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.code_mode import CodeMode
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.function import FunctionToolset, function_tool
from tests.agentkit.arrangements import World, approvals, as_code, by_turns, told

pytestmark = pytest.mark.anyio
Definitions = Sequence[ToolDefinition]


async def look() -> str:
    """Look."""
    return "seen"


async def write(text: str) -> str:
    """Write."""
    return f"wrote {text}"


def retries(messages: Any) -> list[str]:
    parts = (part for m in messages if isinstance(m, ModelRequest) for part in m.parts)
    return [part.content for part in parts if isinstance(part, RetryPromptPart)]


def first_look(context: RunContext[Any], definitions: Definitions) -> list[str]:
    """Offer only `look` in the first step."""
    return ["look"] if context.step == 0 else [each.name for each in definitions]


async def test_a_subset_is_masked_and_the_prompt_stays() -> None:
    model = ScriptedModel([call("look"), call("write", text="x"), "done"])
    result = await Agent(model, tools=[look, write], prepare_tools=first_look).run("hi")
    assert [each.parameters.allowed_tools for each in model.calls] == [frozenset({"look"}), None, None]
    assert all(each.parameters.tools == model.calls[0].parameters.tools for each in model.calls)
    assert told(result) == ["seen", "wrote x"]


async def test_definitions_may_be_returned_and_the_function_may_be_a_coroutine_function() -> None:
    async def only_write(context: RunContext[Any], definitions: Definitions) -> Definitions:
        return [each for each in definitions if each.name == context.deps]

    model = ScriptedModel(["done"])
    await Agent(model, tools=[look, write], prepare_tools=only_write, deps_type=str).run("hi", deps="write")
    assert model.calls[0].parameters.allowed_tools == frozenset({"write"})


async def test_a_changed_definition_is_sent_changed_for_its_step() -> None:
    def hinted(context: RunContext[Any], definitions: Definitions) -> Definitions:
        if context.step:
            return definitions
        return [replace(each, description=f"{each.description} Use it now.") for each in definitions]

    events: list[AgentEvent] = []
    model = ScriptedModel([call("look"), "done"])
    agent = Agent(model, tools=[look, write], prepare_tools=hinted, on_event=events.append)
    result = await agent.run("hi")
    sent = [[tool.description for tool in each.parameters.tools] for each in model.calls]
    assert sent == [["Look. Use it now.", "Write. Use it now."], ["Look.", "Write."]]
    assert told(result) == ["seen"]
    reported = [event.tools for event in events if isinstance(event, ModelRequestEvent)]
    assert reported == [each.parameters.tools for each in model.calls]


async def test_unknown_names_are_a_mistake_that_names_them() -> None:
    agent = Agent(ScriptedModel([]), tools=[look], prepare_tools=lambda context, definitions: ["loook", "other"])
    with pytest.raises(UserError, match=r"unknown tools: 'loook' \(nearest: 'look'\), 'other'"):
        await agent.run("hi")


async def test_a_call_of_a_tool_that_is_not_offered_goes_back_to_the_model() -> None:
    world = World()

    def nothing(context: RunContext[Any], definitions: Definitions) -> list[str]:
        return ["look"]

    agent = Agent(
        by_turns(call("pay", amount=5), "done"), tools=[look, world.pay(asks=True)], prepare_tools=nothing
    )
    result = await agent.run("pay")
    (text,) = retries(result.messages)
    assert (result.status, world.paid) == ("completed", [])
    assert text.startswith("There is no tool 'pay'.") and "look" in text


async def test_a_tool_that_is_offered_again_has_all_its_retries() -> None:
    def late(context: RunContext[Any], definitions: Definitions) -> list[str]:
        return ["look"] if context.step < 2 else ["look", "write"]

    calls = [call("write", text="a"), call("write", text="b"), call("write", text="c"), "done"]
    result = await Agent(by_turns(*calls), tools=[look, write], prepare_tools=late).run("hi")
    assert (told(result), result.state.disabled_tools, len(retries(result.messages))) == (["wrote c"], (), 2)


async def test_it_is_asked_once_for_each_step() -> None:
    asked: list[int] = []

    def counting(context: RunContext[Any], definitions: Definitions) -> Definitions:
        asked.append(context.step)
        return definitions

    agent = Agent(
        by_turns(call("look"), "x", "done"),
        tools=[look],
        prepare_tools=counting,
        planner=PlanTemplate([TemplateStep("Look.", "look"), TemplateStep("Answer.")]),
    )
    await agent.run("hi")
    assert asked == list(range(len(asked))) and len(asked) >= 2


async def test_a_tool_that_was_added_meanwhile_is_prepared_too() -> None:
    tools = FunctionToolset([look])

    async def add_write() -> str:
        """Add a tool."""
        tools.add(write)
        return "added"

    tools.add(add_write)
    seen: list[list[str]] = []

    def noting(context: RunContext[Any], definitions: Definitions) -> list[str]:
        seen.append([each.name for each in definitions])
        return ["look", "add_write"]

    model = ScriptedModel([call("add_write"), call("write", text="x"), "done"])
    result = await Agent(model, toolsets=[tools], prepare_tools=noting).run("hi")
    assert seen[1] == ["look", "add_write", "write"]
    assert model.calls[1].parameters.allowed_tools == frozenset({"look", "add_write"})
    assert len(retries(result.messages)) == 1


async def test_a_run_that_waits_keeps_the_tools_of_its_step() -> None:
    """The call was offered in its step; the function would not offer it again."""
    world, n_asked = World(), 0

    def once(context: RunContext[Any], definitions: Definitions) -> list[str]:
        nonlocal n_asked
        n_asked += 1
        return ["pay"] if n_asked == 1 else ["look"]

    agent = Agent(by_turns(call("pay", amount=5), "done"), tools=[look, world.pay(asks=True)], prepare_tools=once)
    stopped = await agent.run("pay")
    assert (stopped.status, stopped.state.withheld) == ("needs_approval", ("look",))
    state = state_from_json(state_to_json(stopped.state))
    result = await agent.resume(state, approvals(stopped.pending))
    assert (result.status, world.paid) == ("completed", [5])


async def test_a_run_killed_between_reply_and_call_refuses_what_was_not_offered(tmp_path: Path) -> None:
    world = World()

    def never(context: RunContext[Any], definitions: Definitions) -> list[str]:
        return ["look"] if context.step == 0 else ["look", "pay"]

    def agent() -> Agent[None, str]:
        return Agent(
            by_turns(call("pay", amount=5), "done"),
            tools=[look, world.pay()],
            prepare_tools=never,
            checkpointer=tmp_path / "runs.db",
        )

    async with agent().iter("pay") as run:
        await run.advance()
        await run.advance()  # the reply is stored; the application leaves before its call is answered
    result = await agent().resume(run.state.run_id)
    assert (result.status, world.paid, len(retries(result.messages))) == ("completed", [], 1)


async def test_a_plan_is_revised_when_its_tool_is_not_offered() -> None:
    events: list[AgentEvent] = []
    plan = PlanTemplate([TemplateStep("Write.", "write", otherwise=[TemplateStep("Look.", "look")])])
    agent = Agent(
        by_turns(call("look"), "done"),
        tools=[look, write],
        planner=plan,
        prepare_tools=lambda context, definitions: ["look"],
        on_event=events.append,
    )
    result = await agent.run("hi")
    plans = [event for event in events if isinstance(event, PlanEvent)]
    assert plans[1].reason == "the tool 'write' cannot be called now"
    assert told(result) == ["seen"]


async def test_code_can_call_only_the_tools_that_are_offered() -> None:
    pytest.importorskip("pydantic_monty")
    model = ScriptedModel([as_code([call("write", text="x")]), as_code([call("look")]), "done"])
    agent = Agent(model, tools=[look, write], code_mode=CodeMode(), prepare_tools=first_look)
    result = await agent.run("hi")
    one, other = (each.parameters.tools[0].description for each in model.calls[:2])
    assert "look" in one and "write(" not in one and "write(" in other
    assert "name 'write' is not defined" in told(result)[0]


async def test_code_that_waits_goes_on_with_the_functions_of_its_step() -> None:
    pytest.importorskip("pydantic_monty")
    world, n_asked = World(), 0

    def once(context: RunContext[Any], definitions: Definitions) -> list[str]:
        nonlocal n_asked
        n_asked += 1
        return ["pay"] if n_asked == 1 else ["look"]

    code = as_code([call("pay", amount=5)])
    agent = Agent(
        by_turns(code, "done"), tools=[look, world.pay(asks=True)], code_mode=CodeMode(), prepare_tools=once
    )
    stopped = await agent.run("pay")
    result = await agent.resume(state_from_json(state_to_json(stopped.state)), approvals(stopped.pending))
    assert (result.status, world.paid) == ("completed", [5])


async def test_after_a_hand_off_the_function_of_the_other_agent_applies() -> None:
    """The front agent withholds its own `write`; the worker has one too and may call it."""
    worker = Agent(by_turns(call("write", text="a"), "done"), tools=[look, write], name="worker")

    def no_write(context: RunContext[Any], definitions: Definitions) -> Definitions:
        return [each for each in definitions if each.name != "write"]

    front = Agent(
        by_turns(call("transfer_to_worker", task="Do it.")),
        tools=[write],
        handoffs=[worker],
        prepare_tools=no_write,
    )
    result = await front.run("hi")
    assert "wrote a" in told(result)


async def test_a_hand_off_can_be_withheld() -> None:
    worker = Agent(by_turns("x", "done"), name="worker")
    front = Agent(
        by_turns(call("transfer_to_worker", task="Do it."), "done"),
        tools=[look],
        handoffs=[worker],
        prepare_tools=lambda context, definitions: ["look"],
    )
    result = await front.run("hi")
    assert (result.output, result.handed_to) == ("done", None)


async def test_an_inner_agent_prepares_its_own_tools() -> None:
    seen: list[frozenset[str] | None] = []

    def answer(messages: Any, parameters: ModelRequestParameters) -> ModelResponse:
        seen.append(parameters.allowed_tools)
        return ScriptedModel([])._as_response("done", messages)  # pyright: ignore[reportPrivateUsage]

    inner = Agent(FunctionModel(answer), tools=[look, write], name="inner", prepare_tools=first_look)
    outer = Agent(by_turns(call("inner", task="x"), "done"), tools=[inner.as_tool("Works.")])
    assert (await outer.run("hi")).output == "done"
    assert seen == [frozenset({"look"})]


async def test_a_call_written_as_text_of_a_tool_that_is_not_offered_is_refused() -> None:
    world = World()
    agent = Agent(
        ScriptedModel(['{"name": "pay", "arguments": {"amount": 5}}', "done"]),
        tools=[look, world.pay()],
        prepare_tools=lambda context, definitions: ["look"],
    )
    result = await agent.run("pay")
    assert (world.paid, len(retries(result.messages))) == ([], 1)


async def test_without_an_offered_tool_none_is_required() -> None:
    model = ScriptedModel(["done"])
    agent = Agent(
        model,
        tools=[look],
        settings=ModelSettings(tool_choice="required"),
        prepare_tools=lambda context, definitions: [],
    )
    assert (await agent.run("hi")).output == "done"
    assert (model.calls[0].parameters.tool_choice, model.calls[0].parameters.allowed_tools) == (
        "auto",
        frozenset(),
    )


async def test_calls_that_keep_being_refused_end_the_run_at_its_limit() -> None:
    agent = Agent(
        FunctionModel(lambda messages, parameters: _pay(messages, parameters)),
        tools=[look, function_tool(write)],
        prepare_tools=lambda context, definitions: ["look"],
        limits=UsageLimits(repeated_failures_limit=3),
    )
    result = await agent.run("hi")
    assert result.status == "limit_reached" and len(retries(result.messages)) == 3


def _pay(messages: Any, parameters: ModelRequestParameters) -> ModelResponse:
    made = "stopped" if parameters.tool_choice == "none" else call("write", text="x")
    return ScriptedModel([])._as_response(made, messages)  # pyright: ignore[reportPrivateUsage]


async def test_the_prompt_of_the_user_reaches_the_function() -> None:
    def by_prompt(context: RunContext[Any], definitions: Definitions) -> list[str]:
        (prompt,) = context.messages[0].parts
        assert isinstance(prompt, UserPromptPart)
        return [prompt.text]

    model = ScriptedModel(["done"])
    await Agent(model, tools=[look, write], prepare_tools=by_prompt).run("write")
    assert model.calls[0].parameters.allowed_tools == frozenset({"write"})
