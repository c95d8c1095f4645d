"""A whole run over a real child process, and what is left of it when it is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentkit import Agent
from agentkit.mcp import MCPToolset
from agentkit.messages import ModelRequest, ModelResponse, RetryPromptPart, ToolReturnPart
from agentkit.testing import ScriptedModel, call

pytestmark = pytest.mark.anyio
Raw = Callable[..., MCPToolset]
ECHO = """
def call(name, arguments, id):
    text(id, "pong")
"""


def answered(messages: Any) -> bool:
    """Say whether every call is answered by the request behind it."""
    for index, message in enumerate(messages):
        if isinstance(message, ModelResponse) and message.tool_calls:
            request = messages[index + 1]
            assert isinstance(request, ModelRequest)
            ids = [p.tool_call_id for p in request.parts if isinstance(p, (ToolReturnPart, RetryPromptPart))]
            if ids != [c.tool_call_id for c in message.tool_calls]:
                return False
    return True


async def test_a_run_calls_a_tool_of_a_child_and_ends_it(raw: Raw, no_child_left: None) -> None:
    agent = Agent(ScriptedModel([call("ping"), "done"]), toolsets=[raw(ECHO, tools={"ping": {}})])
    result = await agent.run("x")
    assert [p.content for m in result.messages for p in m.parts if isinstance(p, ToolReturnPart)] == ["pong"]


async def test_prepare_tools_masks_the_tools_of_a_server_and_refuses_their_calls(raw: Raw) -> None:
    model = ScriptedModel([call("pong"), call("ping"), "done"])
    servers = [raw(ECHO, tools={"ping": {}, "pong": {}})]
    agent = Agent(model, toolsets=servers, prepare_tools=lambda context, definitions: ["ping"])
    result = await agent.run("x")
    assert model.calls[0].parameters.allowed_tools == {"ping"}
    parts = [part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts][1:]
    assert [type(part) for part in parts] == [RetryPromptPart, ToolReturnPart]


def test_run_sync_ends_its_child_too(raw: Raw, no_child_left: None) -> None:
    agent = Agent(ScriptedModel([call("ping"), "done"]), toolsets=[raw(ECHO, tools={"ping": {}})])
    assert agent.run_sync("x").output == "done"


@pytest.mark.parametrize(
    ("annotations", "options", "status"),
    [
        (None, {}, "needs_approval"),
        (None, {"assume_harmless": True}, "completed"),
        ({"readOnlyHint": True, "openWorldHint": False}, {}, "completed"),
        ({"destructiveHint": True}, {"assume_harmless": True}, "needs_approval"),
    ],
    ids=["nothing is said", "taken for harmless", "it says that it is harmless", "it says that it destroys"],
)
async def test_after_an_untrusted_result_a_tool_that_may_do_anything_needs_approval(
    raw: Raw, annotations: dict[str, bool] | None, options: dict[str, bool], status: str
) -> None:
    """Missing hints mean what MCP says: destructive and open-world."""
    tools = {"ping": {"annotations": annotations} if annotations else {}}
    agent = Agent(
        ScriptedModel([call("ping"), call("ping"), "done"]), toolsets=[raw(ECHO, tools=tools, **options)]
    )
    result = await agent.run("x")
    assert result.status == status
    results = [p for m in result.messages for p in m.parts if isinstance(p, ToolReturnPart)]
    assert len(results) == (2 if status == "completed" else 1)


def test_an_open_agent_keeps_one_child_over_several_runs(raw: Raw, no_child_left: None) -> None:
    pids = "import os\ndef call(name, arguments, id):\n    text(id, str(os.getpid()))\n"
    script = [call("pid"), "a", call("pid"), "b"]
    with Agent(ScriptedModel(script), toolsets=[raw(pids)]) as agent:
        results = [agent.run_sync("x") for _ in range(2)]
    seen = {p.content for r in results for m in r.messages for p in m.parts if isinstance(p, ToolReturnPart)}
    assert len(seen) == 1


@pytest.mark.parametrize("stage", ["run_started", "tool_call", "tool_result"])
@pytest.mark.parametrize("ticks", [0, 1, 2, 5])
async def test_a_cancelled_run_leaves_no_open_call_and_no_child(
    raw: Raw, no_child_left: None, stage: str, ticks: int
) -> None:
    """Cancelled some loop turns behind each stage of the run; the server never answers its second call."""
    server = "n = 0\ndef call(name, arguments, id):\n    global n\n    n += 1\n    n == 1 and text(id, 'pong')\n"
    reached = asyncio.Event()
    agent = Agent(
        ScriptedModel([call("ping"), [call("ping"), call("ping")], "done"]),
        toolsets=[raw(server, tools={"ping": {}}, assume_harmless=True)],
        on_event=lambda event: reached.set() if event.event_kind == stage else None,
    )
    runs: list[Any] = []

    async def go() -> None:
        async with agent.iter("x") as run:
            runs.append(run)
            await run.finish()

    task = asyncio.ensure_future(go())
    await reached.wait()
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answered(runs[0].state.messages)
