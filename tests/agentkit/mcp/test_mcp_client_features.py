"""Roots and log messages that the application offers, and time limits that progress extends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.server import Server

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.events import AgentEvent, ToolProgressEvent
from agentkit.mcp import LogMessage, MCPToolset
from agentkit.mcp.call import MAX_REPORTS
from agentkit.mcp.call_clocks import CallClocks
from agentkit.tools.tool import ToolOutput

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


def calling(call: Callable[[Any], Any], **more: Any) -> Server[Any]:
    """A server with one tool `t`, which is the function `call` of the request."""

    async def on_list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="t", input_schema={"type": "object"})])

    async def on_call_tool(context: Any, params: Any) -> Any:
        said = await call(context)
        return said if not isinstance(said, str) else types.CallToolResult(content=[types.TextContent(text=said)])

    return Server("calling", version="1", on_list_tools=on_list_tools, on_call_tool=on_call_tool, **more)


async def output_of(toolset: MCPToolset, context: RunContext[None]) -> ToolOutput:
    (tool,) = await toolset.list_tools(context)
    with anyio.fail_after(20):
        return await tool.call({}, context)


# -- progress --------------------------------------------------------------------------------------------------


def progressing(*reports: float, pause_s: float) -> Server[Any]:
    async def call(context: Any) -> str:
        for done in reports:
            await anyio.sleep(pause_s)
            await context.session.report_progress(done, None, "step")
        await anyio.sleep(pause_s)
        return "done"

    return calling(call)


@both_eras
async def test_a_call_that_makes_progress_gets_more_time(
    listening: tuple[RunContext[None], list[AgentEvent]], mode: str
) -> None:
    context, events = listening
    server = progressing(1, 2, 3, pause_s=0.2)
    async with MCPToolset(server, mode=mode, call_timeout_s=0.5) as toolset:
        assert await output_of(toolset, context) == ToolOutput("done")  # after 0.8 s
    assert [each.progress for each in events if isinstance(each, ToolProgressEvent)] == [1, 2, 3]


@both_eras
async def test_progress_that_does_not_grow_gives_no_time(context: RunContext[None], mode: str) -> None:
    async with MCPToolset(progressing(*[1] * 50, pause_s=0.1), mode=mode, call_timeout_s=0.35) as toolset:
        output = await output_of(toolset, context)
    assert (output.is_error, output.timed_out) == (True, True)
    assert "Timed out after 0.35 s without progress;" in str(output.content)


async def test_a_call_ends_at_the_maximum_whatever_its_progress(context: RunContext[None]) -> None:
    server = progressing(*range(100), pause_s=0.05)
    async with MCPToolset(server, call_timeout_s=0.3, max_total_timeout_s=0.6) as toolset:
        output = await output_of(toolset, context)
    assert output.timed_out and "Timed out after 0.6 s in all (max_total_timeout_s)" in str(output.content)


async def test_a_clock_counts_its_total_without_the_time_of_questions() -> None:
    clocks = CallClocks()
    with anyio.fail_after(10), clocks.limited(0.2, 0.5) as clock:
        for _ in range(3):
            with clocks.stopped():
                await anyio.sleep(0.3)
                clock.restart()
            await anyio.sleep(0.1)
        clock.restart()
        await anyio.sleep_forever()
    assert clock.scope.cancelled_caught and clock.has_restarted


async def test_a_flood_of_reports_is_not_passed_on(
    listening: tuple[RunContext[None], list[AgentEvent]],
) -> None:
    context, events = listening
    async with MCPToolset(progressing(*range(MAX_REPORTS + 5), pause_s=0)) as toolset:
        assert (await output_of(toolset, context)).content == "done"
    assert len(events) == MAX_REPORTS


# -- roots -----------------------------------------------------------------------------------------------------


def rooted(told: list[str]) -> Server[Any]:
    """A server that asks for the roots, in the way of each era."""

    async def call(context: Any) -> Any:
        if context.protocol_version < "2026-07-28":
            found = await context.session.send_request(types.ListRootsRequest(), types.ListRootsResult)
            return ",".join(str(each.uri) for each in found.roots)
        answered = (context.params or {}).get("inputResponses")
        if not answered:
            return types.InputRequiredResult(input_requests={"roots": types.ListRootsRequest()})
        return ",".join(each["uri"] for each in answered["roots"]["roots"])

    async def changed(context: Any, params: Any) -> None:
        told.append("changed")

    server = calling(call)
    server.add_notification_handler("notifications/roots/list_changed", types.NotificationParams, changed)
    return server


@both_eras
async def test_a_server_learns_the_folders_that_it_is_offered(
    context: RunContext[None], tmp_path: Path, mode: str
) -> None:
    told: list[str] = []
    (tmp_path / "other").mkdir()
    async with MCPToolset(rooted(told), mode=mode, roots=[tmp_path]) as toolset:
        assert (await output_of(toolset, context)).content == tmp_path.as_uri()
        await toolset.set_roots([tmp_path / "other", tmp_path])
        expected = f"{(tmp_path / 'other').as_uri()},{tmp_path.as_uri()}"
        assert (await output_of(toolset, context)).content == expected
    assert told == (["changed"] if mode == "legacy" else [])


@both_eras
async def test_without_roots_the_server_cannot_ask(context: RunContext[None], tmp_path: Path, mode: str) -> None:
    async with MCPToolset(rooted([]), mode=mode) as toolset:
        assert (await output_of(toolset, context)).is_error
        with pytest.raises(UserError, match=r"make it with roots=\[\.\.\.\]"):
            await toolset.set_roots([tmp_path])


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        MCPToolset("http://127.0.0.1:1/mcp", roots=[tmp_path / "none"])
    with pytest.raises(UserError, match="is one string"):
        MCPToolset("http://127.0.0.1:1/mcp", roots=str(tmp_path))


# -- logging ---------------------------------------------------------------------------------------------------


def chatty(levels: list[str], *, refuses: bool = False) -> Server[Any]:
    """A server that logs in each call, as far as it was asked to."""

    async def call(context: Any) -> str:
        for level, data in (("debug", "quiet"), ("warning", "a\u200bb" + "x" * 3_000), ("error", {"code": 1})):
            await context.session.send_log_message(level, data, "db\u202e", related_request_id=context.request_id)
        return "done"

    async def set_level(context: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
        levels.append(params.level)
        if refuses:
            raise ValueError("no")
        return types.EmptyResult()

    server = calling(call)
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    return server


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
@both_eras
async def test_log_messages_are_received_bounded_and_clean(context: RunContext[None], mode: str) -> None:
    levels: list[str] = []
    messages: list[LogMessage] = []
    async with MCPToolset(
        chatty(levels), id="db", mode=mode, on_log=messages.append, log_level="warning"
    ) as toolset:
        assert (await output_of(toolset, context)).content == "done"
    *_, warning, error = messages  # filtering is the server's; this one filters in the later era only
    assert (warning.server, warning.level, warning.logger) == (
        "db",
        "warning",
        "db\n[1 hidden characters removed]",
    )
    assert warning.text.startswith("abxxx") and "characters cut]" in warning.text
    assert error == LogMessage("db", "error", '{"code":1}', warning.logger)
    assert levels == (["warning"] if mode == "legacy" else [])


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_an_error_in_on_log_and_a_refused_level_do_not_end_the_connection(
    context: RunContext[None], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: LogMessage) -> None:
        raise RuntimeError("no disk")

    async with MCPToolset(chatty([], refuses=True), id="db", mode="legacy", on_log=fail) as toolset:
        assert (await output_of(toolset, context)).content == "done"
    assert "MCP server 'db' does not set its log level" in caplog.text
    assert "on_log of MCP server 'db' raised" in caplog.text


async def test_without_on_log_no_messages_are_asked_for(context: RunContext[None]) -> None:
    asked: list[Any] = []

    async def call(context: Any) -> str:
        asked.append((context.meta or {}).get("io.modelcontextprotocol/logLevel"))
        return "done"

    async with MCPToolset(calling(call)) as toolset:
        await output_of(toolset, context)
    assert asked == [None]
