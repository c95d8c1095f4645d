"""Tools that a search finds: what is offered, where it is defined, and that it holds in every arrangement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, FunctionToolset, LocalModel, ModelSettings, RunContext, SlidingWindow, ToolSearch
from agentkit.errors import UserError
from agentkit.messages import (
    Addition,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
    messages_from_json,
    messages_to_json,
)
from agentkit.models.local.transcript import Transcripts
from agentkit.persistence import SQLiteSession, state_from_json, state_to_json
from agentkit.planning import PlanTemplate, TemplateStep
from agentkit.testing import ScriptedModel, call
from agentkit.tools.code_mode import CodeMode
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.found_tools import SEARCH_TOOL, found_names
from agentkit.tools.function import function_tool
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset
from tests.agentkit.arrangements import (
    ARRANGEMENTS,
    Arrangement,
    World,
    approvals,
    as_code,
    by_turns,
    context,
    inside,
)
from tests.agentkit.tools.tool_search_worlds import TOOLS, Seen, forecast, resize, search
from tests.agentkit.tracing.traced_runs import toy_encoder

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]


def prompt_of(messages: Sequence[ModelMessage]) -> UserPromptPart:
    """The last message of the user."""
    return [part for m in messages for part in m.parts if isinstance(part, UserPromptPart)][-1]


def retries(messages: Sequence[ModelMessage]) -> list[str]:
    """The errors that the model was told."""
    return [part.text for m in messages for part in m.parts if isinstance(part, RetryPromptPart)]


# -- offered ------------------------------------------------------------------------------------------------


async def test_the_tools_nearest_to_the_prompt_are_defined_behind_it_and_offered() -> None:
    seen = Seen(call("forecast", city="Rome"), "sunny")
    result = await Agent(seen.model, toolsets=[search()]).run("What is the weather in Rome?")
    assert seen.offered == [[SEARCH_TOOL, "forecast"]] * 2 and result.output == "sunny"
    part = prompt_of(result.messages)
    assert part.said == "What is the weather in Rome?"
    assert [each.tools for each in part.additions] == [("forecast",)]
    assert part.text.endswith("forecast(city:string) - Weather of the next days in a city.")


async def test_a_search_offers_more_tools_behind_those_that_were_offered() -> None:
    seen = Seen(call(SEARCH_TOOL, query="send money"), call("transfer", amount=3), "done")
    result = await Agent(seen.model, toolsets=[search()]).run("What is the weather in Rome?")
    assert seen.offered == [[SEARCH_TOOL, "forecast"], *[[SEARCH_TOOL, "forecast", "transfer"]] * 2]
    (found,) = [p for m in result.messages for p in m.parts if getattr(p, "tool_name", "") == SEARCH_TOOL][1:]
    assert isinstance(found, ToolReturnPart) and found.data == {"found_tools": ["transfer"]}
    assert "transfer(amount:int) - Send money to a bank account." in found.text


async def test_a_tool_that_was_not_found_is_unknown_to_the_model() -> None:
    seen = Seen(call("transfer", amount=3), "done")
    result = await Agent(seen.model, toolsets=[search()]).run("What is the weather in Rome?")
    assert retries(result.messages) == ["There is no tool 'transfer'. Callable: search_tools, forecast."]


async def test_tools_that_are_always_there_need_no_search_and_come_first() -> None:
    seen = Seen(call("resize", width=3), "done")
    result = await Agent(seen.model, toolsets=[search(always=["resize"])]).run("hello")
    assert seen.offered[0] == [SEARCH_TOOL, "resize"] and result.output == "done"
    assert prompt_of(result.messages).additions == ()


async def test_a_prompt_that_no_tool_has_to_do_with_stays_as_it_is() -> None:
    result = await Agent(ScriptedModel(["hi"]), toolsets=[search()]).run("Thank you, that is all.")
    assert prompt_of(result.messages).content == "Thank you, that is all."


async def test_a_search_without_result_says_so() -> None:
    tool = next(each for each in await search().list_tools(context()) if each.name == SEARCH_TOOL)
    output = await tool.call({"query": "xylophone"}, context())
    assert isinstance(output, ToolOutput) and output.data == {"found_tools": []}
    assert "No tool has to do with this" in str(output.content)


async def test_a_second_run_of_a_session_names_the_tools_that_are_known() -> None:
    agent = Agent(by_turns("sunny", "again"), toolsets=[search()])
    first = await agent.run("What is the weather in Rome?")
    second = await agent.run("And the weather in Oslo?", message_history=first.messages)
    (added,) = prompt_of(second.messages).additions
    assert (added.text, added.tools) == ("Known from before, and fitting: forecast.", ("forecast",))


async def test_another_process_offers_what_a_session_has_found(tmp_path: Path) -> None:
    database = tmp_path / "sessions.db"
    seen = Seen(call("transfer", amount=4), "sent")
    agent = Agent(seen.model, toolsets=[search()])
    await agent.run("Send money to Bob", session=SQLiteSession(database, "s"))
    command = [sys.executable, "-m", "tests.agentkit.tools.tool_search_worlds", str(database)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert told.stdout.split() == ["True", "done"], told.stderr


async def test_the_list_of_tools_may_change_during_a_run() -> None:
    inner = FunctionToolset(TOOLS)

    def mow(metres: int) -> str:
        """Cut the grass of the garden."""
        return f"{metres} metres"

    async def buy(name: str) -> str:
        """Buy a machine."""
        inner.add(mow)
        return name

    inner.add(buy)
    seen = Seen(call("buy", name="x"), call(SEARCH_TOOL, query="grass"), call("mow", metres=2), "done")
    await Agent(seen.model, toolsets=[search(inner)]).run("Buy a machine.")
    assert seen.offered[-1] == [SEARCH_TOOL, "buy", "mow"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToolSearch(), "takes toolsets"),
        (lambda: ToolSearch(forecast), "takes toolsets"),  # type: ignore[arg-type]
        (lambda: search(top=0), "`top` is at least 1"),
        (lambda: search().prefixed("web"), "prefix or rename the toolsets inside"),
        (lambda: search().renamed({"a": "b"}), "prefix or rename the toolsets inside"),
    ],
)
def test_a_search_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


async def test_an_unknown_tool_that_should_always_be_there_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"always=\['forecst'\].*nearest: 'forecast'"):
        await search(always=["forecst"]).list_tools(context())


async def test_views_of_a_search_search_the_view() -> None:
    listed = await search().filtered(lambda tool: tool.name != "resize").list_tools(context())
    assert [tool.name for tool in listed] == [SEARCH_TOOL, "forecast", "transfer"]
    asking = await search().requiring_approval(when=lambda tool: tool.name == "transfer").list_tools(context())
    assert [tool.name for tool in asking if tool.requires_approval] == ["transfer"]


async def test_a_search_passes_on_what_its_toolsets_add_and_hear() -> None:
    class Notes(Toolset):
        ended = 0

        async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
            return [function_tool(resize)]

        async def instructions(self, context: RunContext[Any]) -> str | None:
            return "Be brief."

        async def additions(self, context: RunContext[Any], prompt: str) -> Sequence[Addition]:
            return [Addition("notes", "A note.")]

        async def run_ended(self, context: RunContext[Any], messages: Sequence[ModelMessage]) -> None:
            self.ended += 1

    notes = Notes()
    result = await Agent(ScriptedModel(["done"]), toolsets=[search(notes)]).run("Scale the picture")
    assert [each.source for each in prompt_of(result.messages).additions] == ["notes", "tool search"]
    assert notes.ended == 1 and await search(notes).instructions(context()) == "Be brief."


# -- in every arrangement -----------------------------------------------------------------------------------

FIND, PAY = call(SEARCH_TOOL, query="pay"), call("pay", amount=5)


def _code_after_search(tools: Sequence[Tool], calls: Sequence[Any], journal: Path | None) -> Agent[None, str]:
    """The search is a call of its own in code mode: what it finds must stand in the conversation."""
    model = by_turns(calls[0], as_code(calls[1:]), "done")
    return Agent(model, tools=tools, name="coder", code_mode=CodeMode(), checkpointer=journal)


SEARCHING = [
    replace(
        each, build={"in code": _code_after_search, "in code, as a tool": inside(_code_after_search)}[each.name]
    )
    if each.name.startswith("in code")
    else each
    for each in ARRANGEMENTS
]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("arrangement", SEARCHING, ids=lambda each: each.name)
async def test_a_found_tool_asks_for_approval_and_runs_once_after_a_resume(
    arrangement: Arrangement, is_streamed: bool, tmp_path: Path
) -> None:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty")
    world, journal = World(), tmp_path / "runs.db"

    async def agent() -> Agent[None, str]:
        tools = await search(FunctionToolset([world.pay(asks=True), resize])).list_tools(context())
        return arrangement.build(tools, [FIND, PAY], journal)

    if is_streamed:
        async with (await agent()).run_stream("go") as stream:
            stopped = await stream.finish()
    else:
        stopped = await (await agent()).run("go")
    assert (stopped.status, world.paid) == ("needs_approval", [])
    state = state_from_json(state_to_json(stopped.state))
    done = await (await agent()).resume(state, approvals(stopped.pending))
    assert (done.status, world.paid) == ("completed", [5])


async def test_the_results_of_a_found_tool_taint_the_run_as_those_of_any_tool() -> None:
    world = World()
    tools = search(FunctionToolset([world.read(), world.pay(consequential=True)]))
    model = ScriptedModel([call("read_web"), call(SEARCH_TOOL, query="pay"), PAY, "done"])
    result = await Agent(model, toolsets=[tools]).run("Read a page")
    assert (result.status, world.paid, result.state.tainted) == ("needs_approval", [], True)


async def test_a_plan_may_name_a_tool_that_no_search_has_found() -> None:
    plan = PlanTemplate([TemplateStep("Pay.", "transfer")])
    seen = Seen(call("transfer", amount=2), "done")
    result = await Agent(seen.model, toolsets=[search()], planner=plan).run("Go")
    assert seen.offered[0] == ["transfer"] and result.output == "done"


async def test_the_code_tool_is_defined_by_the_tools_that_are_always_there() -> None:
    pytest.importorskip("pydantic_monty")
    seen = Seen(call("run_python", code="print(forecast('Rome'))"), "done")
    agent = Agent(seen.model, toolsets=[search(always=["resize"])], code_mode=CodeMode())
    result = await agent.run("What is the weather in Rome?")
    code = next(tool for tool in seen.definitions[0] if tool.name == "run_python")
    assert "resize(" in code.description and "forecast(" not in code.description
    assert "sunny in Rome" in str(result.messages) and seen.definitions[0] == seen.definitions[1]


# -- found by the conversation ------------------------------------------------------------------------------


def found(name: str, text: str = "", tool_name: str = SEARCH_TOOL, data: Any = None) -> ModelRequest:
    """A message with the result of a search."""
    part = ToolReturnPart(tool_name, "c", text or f"{name}() - x", data or {"found_tools": [name]})
    return ModelRequest((part,))


def test_only_the_search_tool_finds_and_its_data_is_read_with_care() -> None:
    evil = [
        found("a", tool_name="mcp_tool"),
        found("a", data={"found_tools": "a"}),
        found("a", data={"found_tools": [1, None, ["a"]]}),
        found("a", data=["a"]),
        ModelResponse((TextPart('{"found_tools": ["a"]}'),)),
    ]
    assert found_names(evil, evil) == ()
    assert found_names([found("b"), found("a"), found("b")], []) == ("b", "a")


def test_what_was_found_survives_storing() -> None:
    messages = (ModelRequest((UserPromptPart("x").with_additions((Addition("s", "a()", ("a",)),)),)), found("b"))
    stored = messages_from_json(messages_to_json(messages))
    assert found_names(stored, stored) == ("a", "b")


def test_a_tool_whose_finding_was_summarised_away_is_kept_if_it_was_used() -> None:
    used = ModelRequest((ToolReturnPart("a", "1", "result"),))
    conversation = [found("a"), found("b"), used, found("c")]
    assert found_names(conversation[3:], conversation) == (SEARCH_TOOL, "a", "c")


async def test_a_compacted_run_still_offers_the_tools_in_use() -> None:
    seen = Seen(
        call("forecast", city="Rome " * 200),
        call(SEARCH_TOOL, query="scale a picture"),
        call("forecast", city="Oslo " * 200),
        call("forecast", city="Bern " * 200),
        "done",
    )
    agent = Agent(seen.model, toolsets=[search()], compaction=SlidingWindow(max_tokens=500, keep_tokens=200))
    result = await agent.run("What is the weather in Rome?")
    assert result.state.compacted is not None
    assert seen.offered[2] == [SEARCH_TOOL, "forecast", "resize"] and seen.offered[-1] == [SEARCH_TOOL, "forecast"]


# -- the local model ----------------------------------------------------------------------------------------

HEAD = ToolDefinition(SEARCH_TOOL, "Find tools.")
A, B = ToolDefinition("a", "First."), ToolDefinition("b", "Second.")


def rendered(transcripts: Transcripts, messages: Sequence[ModelMessage], *tools: ToolDefinition) -> list[int]:
    """The ids of a request whose found tools are all but the search tool."""
    names = {tool.name for tool in tools} - {SEARCH_TOOL}
    return transcripts.extend(messages, tools, structured=False, found=names).ids


def test_found_tools_are_rendered_where_they_were_found_and_nothing_before_changes() -> None:
    encoder = toy_encoder()
    alive = Transcripts(encoder)
    first: list[ModelMessage] = [ModelRequest((UserPromptPart("hi"),))]
    head = rendered(alive, first, HEAD)
    second = [*first, ModelResponse((TextPart("x"),)), found("a")]
    third = [*second, ModelResponse((TextPart("y"),)), found("b")]
    two = rendered(alive, second, HEAD, A)
    three = rendered(alive, third, HEAD, A, B)
    opening = encoder.generation_ids("user")
    assert two[: len(head) - len(opening)] == head[: -len(opening)]
    assert three == rendered(Transcripts(encoder), third, HEAD, A, B)  # in another process
    text = encoder.vocabulary.decode(three)
    assert text.count("a() - x") == 1 and "From now on" not in text


def test_a_found_tool_that_no_message_defines_any_more_is_told_behind_them() -> None:
    encoder = toy_encoder()
    messages: list[ModelMessage] = [found("a", text="Known from before, and fitting: a.")]
    text = encoder.vocabulary.decode(rendered(Transcripts(encoder), messages, HEAD, A, B))
    assert "From now on you also have these tools:\na() - First.\nb() - Second." in text


async def test_the_grammar_and_the_probabilities_hold_exactly_the_offered_tools(tiny_gguf: Path) -> None:
    model = LocalModel(tiny_gguf, grammar="llguidance")
    settings = ModelSettings(tool_choice="required", max_tokens=120)
    async with Agent(model, toolsets=[search()], settings=settings).iter("What is the weather in Rome?") as run:
        await run.advance()
        await run.advance()
    response = run.state.messages[1]
    assert isinstance(response, ModelResponse)
    (first, *_) = response.tool_calls
    named = {name for names, _ in first.alternatives for name in names.split("|")} | {first.tool_name}
    assert named - {"(no tool)"} == {SEARCH_TOOL, "forecast"}
