"""One call: arguments, results, progress, cancellation, errors, questions."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping
from typing import Annotated, Any

import anyio
import mcp_types as types
import pytest
from mcp import MCPError
from mcp.server import MCPServer, Server
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from pydantic import BaseModel

from agentkit import Agent
from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.events import AgentEvent, ToolProgressEvent, ToolResultEvent
from agentkit.mcp import Elicitation, MCPToolset
from agentkit.mcp.call_clocks import CallClocks
from agentkit.messages import BinaryContent, ToolReturnPart, text_of
from agentkit.testing import ScriptedModel, call
from agentkit.tools.tool import Tool, ToolOutput

pytestmark = pytest.mark.anyio


def answering(result: types.CallToolResult | Exception, **tool: Any) -> Server[Any]:
    """A server with one tool `t` that gives `result`."""

    async def on_list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="t", **{"input_schema": {"type": "object"}, **tool})])

    async def on_call_tool(context: Any, params: Any) -> types.CallToolResult:
        if isinstance(result, Exception):
            raise result
        return result

    return Server("answering", version="1", on_list_tools=on_list_tools, on_call_tool=on_call_tool)


async def output_of(server: Any, context: RunContext[None], **options: Any) -> ToolOutput:
    async with MCPToolset(server, **options) as toolset:
        (tool,) = await toolset.list_tools(context)
        with anyio.fail_after(20):
            return await tool.call({}, context)


def text(value: str, **more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=value)], **more)


async def call_once(tool: Tool, context: RunContext[None]) -> None:
    await tool.call({}, context)


async def test_arguments_are_checked_before_anything_is_sent(adder: MCPServer, context: RunContext[None]) -> None:
    async with MCPToolset(adder) as toolset:
        (tool,) = await toolset.list_tools(context)
        with pytest.raises(ModelRetry, match=r"a: must be integer \(got '1'\)\nb: required but missing"):
            tool.validate('{"a": "1"}')
        assert tool.validate('{"a": 1, "b": 2}') == {"a": 1, "b": 2}


async def test_structured_value_is_data_and_text_is_content(adder: MCPServer, context: RunContext[None]) -> None:
    async with MCPToolset(adder) as toolset:
        (tool,) = await toolset.list_tools(context)
        assert await tool.call({"a": 1, "b": 2}, context) == ToolOutput("3", {"result": 3})


async def test_a_structured_value_without_text_is_rendered_compactly(context: RunContext[None]) -> None:
    result = types.CallToolResult(content=[], structured_content={"a": [1, 2], "b": "ü"})
    assert await output_of(answering(result), context) == ToolOutput(
        '{"a":[1,2],"b":"ü"}', {"a": [1, 2], "b": "ü"}
    )


async def test_pictures_sounds_and_documents_are_files_and_other_resources_are_described(
    context: RunContext[None],
) -> None:
    data = base64.b64encode(bytes(30_000)).decode()
    result = types.CallToolResult(
        content=[
            types.TextContent(text="See:"),
            types.ImageContent(data=data, mime_type="image/png"),
            types.AudioContent(data=data[:40], mime_type="audio/wav"),
            types.ResourceLink(uri="file:///a.txt", name="a.txt", mime_type="text/plain", size=12),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///b.txt", text="inside b")),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="file:///c", blob=data)),
            types.ImageContent(data=data[:20], mime_type="image/svg+xml"),
        ]
    )
    assert (await output_of(answering(result), context)).content == (
        "See:",
        BinaryContent(bytes(30_000), "image/png"),
        BinaryContent(bytes(30), "audio/wav"),
        "[resource file:///a.txt: a.txt, text/plain, 12 bytes]\n"
        "[resource file:///b.txt]\ninside b\n[resource file:///c: binary, 30 kB]\n"
        "[image: image/svg+xml, 15 bytes]",
    )


async def test_an_error_result_reaches_the_model(context: RunContext[None]) -> None:
    assert await output_of(answering(text("No such file.", is_error=True)), context) == ToolOutput(
        "No such file.", None, is_error=True
    )


async def test_a_huge_result_is_cut_with_a_note(context: RunContext[None]) -> None:
    output = await output_of(answering(text("x" * 2_000_000)), context)
    assert output.content == "x" * 64_000 + "\n[1,936,000 of 2,000,000 characters cut]"
    assert text_of((await output_of(answering(text("x" * 10)), context, result_limit=4)).content).startswith(
        "xxxx\n[6 of 10"
    )


async def test_hidden_characters_in_a_result_are_removed_unless_trusted(context: RunContext[None]) -> None:
    server = answering(text("a\U000e0041\u202eb\x1b[1m 👨\u200d👩"))
    assert (await output_of(server, context)).content == "ab[1m 👨\u200d👩\n[3 hidden characters removed]"
    assert (await output_of(server, context, trust="trusted")).content == "a\U000e0041\u202eb\x1b[1m 👨\u200d👩"


@pytest.mark.parametrize("result", [text("x", structured_content={"n": "1"}), text("x")])
async def test_a_result_that_breaks_the_output_schema_is_an_error(
    context: RunContext[None], result: types.CallToolResult
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    output = await output_of(answering(result, output_schema=schema), context)
    assert output.is_error and "breaks the tool's own output schema" in output.content


async def test_a_result_too_large_to_be_checked_is_passed_on_with_a_note(context: RunContext[None]) -> None:
    schema = {"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"}}}}
    result = text("x", structured_content={"l": list(range(60_000))})
    output = await output_of(answering(result, output_schema=schema), context)
    assert output.content == "x\n[not verified: too large to be checked against the schema]"


async def test_a_pathological_output_pattern_does_not_hang(context: RunContext[None]) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", "pattern": "^(a+)+$"}}}
    result = text("x", structured_content={"s": "a" * 100_000 + "!"})
    assert (await output_of(answering(result, output_schema=schema), context)).is_error


async def test_a_json_rpc_error_is_an_error_result(context: RunContext[None]) -> None:
    output = await output_of(answering(MCPError(-32602, "no such thing\u202e")), context)
    assert output == ToolOutput(
        "The server refused the call (error -32602): no such thing\n[1 hidden characters removed]", is_error=True
    )


async def test_progress_reaches_the_context(listening: tuple[RunContext[None], list[AgentEvent]]) -> None:
    context, events = listening
    for mode in ("auto", "legacy"):
        server = MCPServer("slow", version="1")

        @server.tool()
        async def work(ctx: Context) -> str:  # type: ignore[type-arg]
            """Work."""
            await ctx.report_progress(1, 2, "half")
            return "done"

        events.clear()
        assert (await output_of(server, context, mode=mode)).content == "done"
        assert events == [ToolProgressEvent("tool", "1", 1, 2, "half")]


def hanging() -> tuple[MCPServer, anyio.Event, anyio.Event]:
    """A server whose tool never returns, and events for its start and its cancellation."""
    server, started, stopped = MCPServer("hanging", version="1"), anyio.Event(), anyio.Event()

    @server.tool()
    async def hang() -> str:
        """Never return."""
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        raise NotImplementedError

    return server, started, stopped


async def test_cancelling_the_caller_cancels_the_call_on_the_server(context: RunContext[None]) -> None:
    for mode in ("auto", "legacy"):
        server, started, stopped = hanging()
        async with MCPToolset(server, mode=mode) as toolset:
            (tool,) = await toolset.list_tools(context)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call_once, tool, context)
                    await started.wait()
                    tasks.cancel_scope.cancel()
                await stopped.wait()


async def test_a_call_that_times_out_is_an_error_result_in_process_too(context: RunContext[None]) -> None:
    server, _, stopped = hanging()
    output = await output_of(server, context, call_timeout_s=0.05)
    assert output.is_error and "Timed out" in output.content
    assert stopped.is_set()


async def test_a_run_reports_a_call_that_times_out_as_such() -> None:
    server, _, _ = hanging()
    outcomes: list[str] = []

    def listen(event: AgentEvent) -> None:
        if isinstance(event, ToolResultEvent):
            outcomes.append(event.outcome)

    async with MCPToolset(server, call_timeout_s=0.05) as toolset:
        (tool,) = await toolset.list_tools(RunContext(deps=None))
        model = ScriptedModel([call(tool.name), "done"])
        await Agent(model, toolsets=[toolset], on_event=listen).run("go")
    assert outcomes == ["timeout"]


class Name(BaseModel):
    name: str


async def ask() -> Elicit[Name]:
    return Elicit("Who are you?", Name)


def asking() -> MCPServer:
    server = MCPServer("asking", version="1")

    @server.tool()
    async def greet(who: Annotated[ElicitationResult[Name], Resolve(ask)]) -> str:
        """Greet."""
        return f"{who.action} {who.data.name if isinstance(who, AcceptedElicitation) else None}"

    return server


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_questions_go_to_on_elicit(context: RunContext[None], mode: str) -> None:
    asked: list[Elicitation] = []

    async def on_elicit(question: Elicitation) -> Mapping[str, Any] | None:
        asked.append(question)
        return {"name": "Ada"}

    output = await output_of(asking(), context, mode=mode, on_elicit=on_elicit)
    assert output.content == "accept Ada"
    (question,) = asked
    assert (question.server, question.message) == ("asking", "Who are you?")
    assert question.schema is not None and "name" in question.schema["properties"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_time_that_a_person_takes_does_not_count_towards_the_call(
    context: RunContext[None], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five minutes pass while the person thinks; the call has 30 seconds."""
    loop = asyncio.get_running_loop()
    time = loop.time

    async def on_elicit(question: Elicitation) -> Mapping[str, Any] | None:
        monkeypatch.setattr(loop, "time", lambda: time() + 300)
        for _ in range(3):
            await anyio.sleep(0)  # what has expired is due now
        return {"name": "Ada"}

    model = ScriptedModel([call("greet"), "done"])
    toolset = MCPToolset(asking(), mode=mode, on_elicit=on_elicit)
    result = await Agent(model, toolsets=[toolset]).run("greet me")
    (answer,) = [part for m in result.messages for part in m.parts if isinstance(part, ToolReturnPart)]
    assert answer.content == "accept Ada"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_person_who_does_not_answer_has_cancelled(
    context: RunContext[None], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_elicit(question: Elicitation) -> Mapping[str, Any] | None:
        await anyio.sleep_forever()
        return {}

    output = await output_of(asking(), context, mode=mode, on_elicit=on_elicit, elicit_timeout_s=0.01)
    assert output.content == "cancel None"
    assert "elicit_timeout_s=0.01" in caplog.text


async def test_a_clock_goes_on_where_it_stood_when_the_last_question_is_answered() -> None:
    clocks = CallClocks()
    with clocks.limited(100.0) as first:
        with clocks.stopped():
            assert first.scope.deadline == math.inf
            with clocks.stopped(), clocks.limited(50.0) as second:
                assert second.scope.deadline == math.inf
            assert first.scope.deadline == math.inf
        left_s = first.scope.deadline - anyio.current_time()
        assert 0.0 < left_s <= 100.0
        with clocks.limited(0.0) as expired:
            await anyio.sleep_forever()
    assert (expired.scope.cancelled_caught, first.scope.cancelled_caught) == (True, False)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_without_on_elicit_questions_are_declined(context: RunContext[None], mode: str) -> None:
    output = await output_of(asking(), context, mode=mode)
    assert output.content == "decline None"


async def test_an_error_in_on_elicit_cancels_the_question_and_not_the_connection(
    context: RunContext[None], caplog: pytest.LogCaptureFixture
) -> None:
    async def on_elicit(question: Elicitation) -> Mapping[str, Any] | None:
        raise RuntimeError("no terminal")

    output = await output_of(asking(), context, on_elicit=on_elicit)
    assert output.content == "cancel None"
    assert "no terminal" in caplog.text
