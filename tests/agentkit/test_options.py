"""Options of a run: one list for every way to run, passed as keywords or as one dict; and options of tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentkit import (
    Agent,
    ModelSettings,
    ResumeOptions,
    RunContext,
    RunOptions,
    RunResult,
    UsageLimits,
    UserError,
    tool,
)
from agentkit.persistence import InMemoryCheckpointer
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import ToolAnnotations
from agentkit.tools.function import FunctionToolset, ToolOptions, function_tool
from agentkit.tools.tool import Tool

pytestmark = pytest.mark.anyio


async def by_run(agent: Agent[Any, str], **options: Any) -> RunResult[str]:
    return await agent.run("x", **options)


async def by_run_sync(agent: Agent[Any, str], **options: Any) -> RunResult[str]:
    return agent.run_sync("x", **options)


async def by_run_stream(agent: Agent[Any, str], **options: Any) -> RunResult[str]:
    async with agent.run_stream("x", **options) as stream:
        return await stream.finish()


async def by_run_stream_sync(agent: Agent[Any, str], **options: Any) -> RunResult[str]:
    with agent.run_stream_sync("x", **options) as stream:
        return stream.finish()


async def by_iter(agent: Agent[Any, str], **options: Any) -> RunResult[str]:
    async with agent.iter("x", **options) as run:
        return await run.finish()


Way = Callable[..., Awaitable[RunResult[str]]]
WAYS: list[Way] = [by_run, by_run_sync, by_run_stream, by_run_stream_sync, by_iter]


@pytest.mark.parametrize("way", WAYS)
async def test_one_dict_of_options_serves_every_way_to_run(way: Way) -> None:
    seen: list[int] = []

    def look(context: RunContext[int]) -> str:
        seen.append(context.deps)
        return "seen"

    keeper = InMemoryCheckpointer()
    options: RunOptions[int] = {
        "deps": 7,
        "limits": UsageLimits(request_limit=2),
        "settings": ModelSettings(temperature=0.5),
        "metadata": {"user": "ann"},
    }
    model = ScriptedModel([call("look"), "done"])
    agent = Agent(model, tools=[look], deps_type=int, checkpointer=keeper, settings=ModelSettings(seed=1))
    result = await way(agent, **options)
    assert (result.output, seen) == ("done", [7])
    assert model.calls[0].parameters.settings == ModelSettings(temperature=0.5, seed=1)
    assert model.calls[1].parameters.tool_choice == "none"  # the second request is the last one
    stored = await keeper.load(result.run_id)
    assert stored.summary.metadata == {"user": "ann"}


@pytest.mark.parametrize("way", WAYS)
async def test_an_unknown_option_names_the_nearest_known_one(way: Way) -> None:
    agent = Agent(ScriptedModel([]))
    with pytest.raises(UserError, match="a run has no option 'limit'; did you mean 'limits'?"):
        await way(agent, limit=UsageLimits())
    with pytest.raises(UserError, match="a run has no option 'colour'; known: deps, limits, message_history, "):
        await way(agent, colour="red")


async def test_a_resumed_run_knows_the_options_that_apply_to_it() -> None:
    agent = Agent(ScriptedModel([]))
    given: Any = {"metadata": {}}
    with pytest.raises(UserError, match="no option 'metadata'; known: deps, limits, session, settings"):
        await agent.resume("run_1", **given)
    with pytest.raises(UserError, match="no option 'metadata'"):
        agent.resume_sync("run_1", **given)


async def test_one_dict_of_options_serves_every_way_to_resume() -> None:
    seen: list[int] = []

    @tool(requires_approval=True)
    def look(context: RunContext[int]) -> str:
        seen.append(context.deps)
        return "seen"

    options: ResumeOptions[int] = {"deps": 7}
    for way in ("resume", "resume_sync", "iter_resumed"):
        agent = Agent(ScriptedModel([call("look"), "done"]), tools=[look], deps_type=int)
        stopped = await agent.run("x", deps=1)
        decisions = [pending.approve() for pending in stopped.pending]
        if way == "resume":
            result = await agent.resume(stopped.state, decisions, **options)
        elif way == "resume_sync":
            result = agent.resume_sync(stopped.state, decisions, **options)
        else:
            async with agent.iter_resumed(stopped.state, decisions, **options) as run:
                result = await run.finish()
        assert result.output == "done"
    assert seen == [7, 7, 7]


# --- options of tools ------------------------------------------------------------------------------------------

OPTIONS: ToolOptions = {
    "name": "plus",
    "description": "Adds.",
    "timeout_s": 3,
    "retries": 4,
    "requires_approval": True,
    "on_error": "raise",
    "sequential": True,
    "annotations": ToolAnnotations(destructive=True),
    "untrusted_output": True,
    "allows_repeats": True,
}


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def facts(made: Tool) -> dict[str, Any]:
    return {
        "name": made.name,
        "description": made.definition.description,
        "timeout_s": made.timeout_s,
        "retries": made.max_retries,
        "requires_approval": made.requires_approval,
        "on_error": made.on_error,
        "sequential": made.sequential,
        "annotations": made.definition.annotations,
        "untrusted_output": made.is_untrusted,
        "allows_repeats": made.allows_repeats,
    }


async def test_every_option_reaches_the_tool_by_each_decorator() -> None:
    assert facts(function_tool(tool(**OPTIONS)(add_again()))) == OPTIONS
    assert facts(function_tool(add, **OPTIONS)) == OPTIONS
    agent = Agent(ScriptedModel([]))
    assert agent.tool(**OPTIONS)(add) is add
    toolset = FunctionToolset()
    toolset.add(add, **OPTIONS)
    assert [facts(each) for each in await toolset.list_tools(RunContext(None))] == [OPTIONS]
    (of_agent,) = await agent._declared.functions.list_tools(RunContext(None))
    assert facts(of_agent) == OPTIONS


def add_again() -> Callable[[int], int]:
    def added(a: int) -> int:
        return a

    return added


async def test_the_agents_decorator_works_with_and_without_options() -> None:
    agent = Agent(ScriptedModel([[call("one"), call("number_two", n=2)], "done"]))

    @agent.tool
    def one() -> int:
        return 1

    @agent.tool(name="number_two", retries=0)
    def two(n: int) -> int:
        return n

    result = await agent.run("x")
    assert (result.output, one(), two(2), result.usage.tool_calls) == ("done", 1, 2, 2)


async def test_options_of_the_agents_decorator_go_before_those_of_the_function() -> None:
    marked = tool(name="plus", timeout_s=3)(add_again())
    assert facts(function_tool(marked, timeout_s=5))["timeout_s"] == 5
    assert function_tool(marked, timeout_s=5).name == "plus"


@pytest.mark.parametrize("way", [tool, Agent(ScriptedModel([])).tool])
def test_an_unknown_option_of_a_tool_names_the_nearest_known_one(way: Any) -> None:
    with pytest.raises(UserError, match="a tool has no option 'timeout'; did you mean 'timeout_s'?"):
        way(timeout=3)(add)
    with pytest.raises(UserError, match="a tool has no option 'colour'; known: allows_repeats, "):
        way(colour="red")(add)


def test_a_tool_that_is_made_takes_no_options() -> None:
    with pytest.raises(UserError, match="options timeout_s are for functions; 'add' is a Tool already"):
        FunctionToolset().add(function_tool(add), timeout_s=3)
