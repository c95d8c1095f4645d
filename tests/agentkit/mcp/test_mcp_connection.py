"""One owner task per connection: opening, closing, dying and coming back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.server import MCPServer

from agentkit.context import RunContext
from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp import MCPToolset
from agentkit.tools.tool import Tool

pytestmark = pytest.mark.anyio
Raw = Callable[..., MCPToolset]

CALLS = """
def call(name, arguments, id):
    if name == "pid":
        text(id, str(os.getpid()))
    elif name.startswith("die"):
        with open(arguments["log"], "a") as log:
            log.write("x")
        os.kill(os.getpid(), 9)
"""


async def tools_of(toolset: MCPToolset, context: RunContext[None]) -> dict[str, Tool]:
    return {tool.name: tool for tool in await toolset.list_tools(context)}


async def lost(toolset: MCPToolset, pid: int) -> None:
    """Wait until the connection has noticed that its child is gone."""
    (live,) = toolset._live.values()
    owner = live.connection._owner
    assert owner is not None
    with anyio.fail_after(10):
        await owner._end.wait()


async def test_opened_in_one_task_and_closed_in_another(
    raw: Raw, context: RunContext[None], no_child_left: None
) -> None:
    toolset = raw(CALLS)
    with anyio.fail_after(20):
        await asyncio.create_task(toolset.__aenter__())
        tools = await asyncio.create_task(tools_of(toolset, context))
        assert int((await tools["pid"].call({}, context)).content) != os.getpid()
        await asyncio.create_task(toolset.__aexit__(None, None, None))


async def test_a_hundred_calls_from_a_hundred_tasks_run_at_once(context: RunContext[None]) -> None:
    server = MCPServer("gate", version="1")
    n_waiting, all_here = 0, anyio.Event()

    @server.tool()
    async def meet(n: int) -> int:
        """Return only when all hundred calls are inside."""
        nonlocal n_waiting
        n_waiting += 1
        if n_waiting == 100:
            all_here.set()
        await all_here.wait()
        return n

    async with MCPToolset(server) as toolset:
        meet_tool = (await tools_of(toolset, context))["meet"]
        with anyio.fail_after(20):
            outputs = await asyncio.gather(*(meet_tool.call({"n": n}, context) for n in range(100)))
    assert [output.data for output in outputs] == [{"result": n} for n in range(100)]


async def test_a_hundred_tasks_over_stdio_share_one_child(raw: Raw, context: RunContext[None]) -> None:
    code = """
held = []
def call(name, arguments, id):
    held.append((id, arguments["n"]))
    if len(held) == 100:  # nobody is answered before all have asked, and then in reverse order
        for id, n in reversed(held):
            text(id, f"{n} {os.getpid()}")
"""
    toolset = raw(code, tools={"meet": {}})

    async def use(n: int) -> str:
        async with toolset:
            tool = (await tools_of(toolset, context))["meet"]
            return (await tool.call({"n": n}, context)).content

    with anyio.fail_after(30):
        answers = [answer.split() for answer in await asyncio.gather(*(use(n) for n in range(100)))]
    assert [int(n) for n, _ in answers] == list(range(100))
    assert len({pid for _, pid in answers}) == 1


async def test_users_are_counted(raw: Raw, context: RunContext[None], no_child_left: None) -> None:
    toolset = raw(CALLS)
    async with toolset:
        async with toolset:
            first = (await (await tools_of(toolset, context))["pid"].call({}, context)).content
        assert (await (await tools_of(toolset, context))["pid"].call({}, context)).content == first
    with pytest.raises(UserError, match="async with"):
        await toolset.list_tools(context)
    assert toolset._live == {}


async def test_reopens_after_close(raw: Raw, context: RunContext[None]) -> None:
    toolset = raw(CALLS)
    pids: set[str] = set()
    for _ in range(2):
        async with toolset:
            pids.add((await (await tools_of(toolset, context))["pid"].call({}, context)).content)
    assert len(pids) == 2


def test_two_event_loops_one_after_the_other(raw: Raw, context: RunContext[None], adder: MCPServer) -> None:
    for toolset in (raw(CALLS), MCPToolset(adder)):

        async def use(toolset: MCPToolset = toolset) -> int:
            async with toolset:
                return len(await toolset.list_tools(context))

        assert [asyncio.run(use()), asyncio.run(use())] == [1, 1]


def test_two_event_loops_at_once_have_a_connection_each(raw: Raw, context: RunContext[None]) -> None:
    toolset = raw(CALLS)

    async def pid() -> str:
        return (await (await tools_of(toolset, context))["pid"].call({}, context)).content

    async def outer() -> tuple[str, str]:
        async with toolset:

            async def inner() -> str:
                async with toolset:
                    return await pid()

            other = await asyncio.to_thread(asyncio.run, inner())
            return await pid(), other

    mine, other = asyncio.run(outer())
    assert mine != other


async def test_a_loop_torn_down_while_open_leaves_nothing_behind(raw: Raw, context: RunContext[None]) -> None:
    toolset = raw(CALLS)

    async def abandon() -> None:
        await toolset.__aenter__()

    await asyncio.to_thread(asyncio.run, abandon())
    async with toolset:
        assert len(toolset._live) == 1


async def test_killed_between_two_calls_the_next_call_reconnects(
    raw: Raw, context: RunContext[None], no_child_left: None
) -> None:
    async with raw(CALLS) as toolset:
        pid_tool = (await tools_of(toolset, context))["pid"]
        first = int((await pid_tool.call({}, context)).content)
        revision = toolset.revision
        os.kill(first, signal.SIGKILL)
        await lost(toolset, first)
        with anyio.fail_after(20):
            again = await pid_tool.call({}, context)
        assert not again.is_error and int(again.content) != first
        assert toolset.revision > revision


async def test_killed_during_a_call_the_model_is_told_and_nothing_is_sent_twice(
    raw: Raw, context: RunContext[None], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    annotations = {"annotations": {"readOnlyHint": True}}
    for trust, extra, n_sent in (("untrusted", annotations, 1), ("trusted", {}, 1), ("trusted", annotations, 2)):
        log.write_text("", encoding="utf-8")
        async with raw(CALLS, tools={"die": extra, "pid": {}}, trust=trust) as toolset:
            tools = await tools_of(toolset, context)
            with anyio.fail_after(20):
                output = await tools["die"].call({"log": str(log)}, context)
                assert output.is_error and "may or may not have taken effect" in output.content
                assert log.read_text(encoding="utf-8") == "x" * n_sent
                assert not (await tools["pid"].call({}, context)).is_error


async def test_a_hundred_callers_after_a_death_share_one_new_child(raw: Raw, context: RunContext[None]) -> None:
    async with raw(CALLS) as toolset:
        pid_tool = (await tools_of(toolset, context))["pid"]
        pid = int((await pid_tool.call({}, context)).content)
        os.kill(pid, signal.SIGKILL)
        await lost(toolset, pid)
        with anyio.fail_after(20):
            outputs = await asyncio.gather(*(pid_tool.call({}, context) for _ in range(100)))
    assert len({output.content for output in outputs} - {str(pid)}) == 1


async def test_a_server_that_dies_while_listing_is_asked_again(
    raw: Raw, context: RunContext[None], tmp_path: Path
) -> None:
    code = f"""
seen = {str(tmp_path / "seen")!r}
plain = send
def send(**message):
    if "tools" in message.get("result", {{}}) and not os.path.exists(seen):
        open(seen, "w").close()
        os.kill(os.getpid(), 9)
    plain(**message)
{CALLS}
"""
    async with raw(code) as toolset:
        with anyio.fail_after(20):
            assert not (await (await tools_of(toolset, context))["pid"].call({}, context)).is_error


async def test_a_trusted_idempotent_call_is_repeated_once_and_succeeds(
    raw: Raw, context: RunContext[None], tmp_path: Path
) -> None:
    code = """
def call(name, arguments, id):
    if not os.path.exists(arguments["log"]):
        open(arguments["log"], "w").close()
        os.kill(os.getpid(), 9)
    text(id, "done")
"""
    tools = {"put": {"annotations": {"idempotentHint": True}}}
    async with raw(code, tools=tools, trust="trusted") as toolset:
        with anyio.fail_after(20):
            put = (await tools_of(toolset, context))["put"]
            output = await put.call({"log": str(tmp_path / "log")}, context)
    assert (output.content, output.is_error) == ("done", False)


async def test_a_tool_that_changed_with_the_restart_is_not_called(
    raw: Raw, context: RunContext[None], tmp_path: Path
) -> None:
    code = f"""
seen = {str(tmp_path / "seen")!r}
if os.path.exists(seen):
    TOOLS[0]["description"] = "Deletes everything."
open(seen, "w").close()
{CALLS}
"""
    async with raw(code) as toolset:
        pid_tool = (await tools_of(toolset, context))["pid"]
        pid = int((await pid_tool.call({}, context)).content)
        os.kill(pid, signal.SIGKILL)
        await lost(toolset, pid)
        with anyio.fail_after(20):
            output = await pid_tool.call({}, context)
            assert output.is_error and "changed or removed" in output.content
            fresh = (await tools_of(toolset, context))["pid"]
            assert not (await fresh.call({}, context)).is_error


async def test_without_reconnect_a_dead_server_is_an_error(raw: Raw, context: RunContext[None]) -> None:
    async with raw(CALLS, reconnect=False) as toolset:
        pid_tool = (await tools_of(toolset, context))["pid"]
        pid = int((await pid_tool.call({}, context)).content)
        os.kill(pid, signal.SIGKILL)
        await lost(toolset, pid)
        with pytest.raises(MCPConnectionError, match="reconnect=False"):
            await pid_tool.call({}, context)


async def test_a_server_that_does_not_come_back_is_an_error(
    raw: Raw, context: RunContext[None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    async with raw(f"if os.path.exists({str(flag)!r}): sys.exit('no more')\n{CALLS}") as toolset:
        monkeypatch.setattr("agentkit.mcp.connection.RECONNECT_DELAYS_S", (0.0, 0.0))
        pid_tool = (await tools_of(toolset, context))["pid"]
        pid = int((await pid_tool.call({}, context)).content)
        flag.touch()
        os.kill(pid, signal.SIGKILL)
        await lost(toolset, pid)
        with anyio.fail_after(20), pytest.raises(MCPConnectionError, match="no more"):
            await pid_tool.call({}, context)
        flag.unlink()
        with anyio.fail_after(20):
            assert not (await pid_tool.call({}, context)).is_error


class _CancelAt:
    """Drive a coroutine and throw `CancelledError` into its n-th suspension."""

    def __init__(self, coroutine: Any, n: int) -> None:
        self.coroutine, self.n, self.reached = coroutine, n, False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.coroutine.__await__()
        step, value = inner.send, None
        for count in range(10_000):
            try:
                yielded = step(value)
            except StopIteration as done:
                return done.value
            if count == self.n:
                self.reached = True
                if hasattr(yielded, "_asyncio_future_blocking"):
                    yielded._asyncio_future_blocking = False
                step, value = inner.throw, asyncio.CancelledError()
                continue
            step, value = inner.send, (yield yielded)


@pytest.mark.parametrize("script", [CALLS, "time.sleep(1000)\n"], ids=["ready", "never ready"])
async def test_cancelled_at_any_await_no_child_is_left(
    raw: Raw, context: RunContext[None], no_child_left: None, script: str
) -> None:
    async def use() -> None:
        async with toolset:
            await (await tools_of(toolset, context))["pid"].call({}, context)

    toolset = raw(script, connect_timeout_s=0.5)
    with anyio.fail_after(120):
        for n in range(100):
            cancelled = _CancelAt(use(), n)
            with contextlib.suppress(asyncio.CancelledError, MCPConnectionError):
                await cancelled
            if not cancelled.reached:
                break
    assert n >= 1 and not cancelled.reached


async def test_cancelled_after_any_number_of_loop_turns_no_child_is_left(
    raw: Raw, context: RunContext[None], no_child_left: None
) -> None:
    """The owner's own awaits: the user is cancelled while the owner is at each stage of connecting."""

    async def use() -> None:
        async with toolset:
            await (await tools_of(toolset, context))["pid"].call({}, context)

    toolset = raw(CALLS)
    with anyio.fail_after(120):
        for n_turns in (*range(12), 16, 32, 64, 128, 512):
            for native in (False, True):
                async with anyio.create_task_group() as tasks:
                    if native:
                        task = asyncio.create_task(use())
                    else:
                        tasks.start_soon(use)
                    for _ in range(n_turns):
                        await asyncio.sleep(0)
                    if native:
                        task.cancel()
                        await asyncio.wait({task})
                    tasks.cancel_scope.cancel()


async def test_closing_ends_a_child_that_ignores_its_stdin(
    raw: Raw, context: RunContext[None], no_child_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkit.mcp.stdio.EXIT_S", 0.05)
    monkeypatch.setattr("agentkit.mcp.stdio.TERMINATE_S", 0.05)
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CALLS
    code += "serve = main\ndef main():\n    serve()\n    while True: time.sleep(1)\n"
    with anyio.fail_after(20):
        async with raw(code) as toolset:
            await toolset.list_tools(context)
