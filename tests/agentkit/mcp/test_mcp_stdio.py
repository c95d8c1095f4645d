"""Children that misbehave, and what a child is given."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp.client.stdio import StdioServerParameters

from agentkit.context import RunContext
from agentkit.errors import MCPConnectionError, ToolDefinitionError
from agentkit.mcp import MCPToolset, http_client, stdio
from agentkit.mcp.stdio import Lines, ServerOutputError, session_members

pytestmark = pytest.mark.anyio
Raw = Callable[..., MCPToolset]


def test_importing_the_package_does_not_import_mcp() -> None:
    code = "import sys, agentkit.mcp; print({'mcp', 'mcp_types', 'httpx2', 'jsonschema'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_noise_on_stdout_is_skipped(raw: Raw, context: RunContext[None]) -> None:
    code = r"""
sys.stdout.write("Starting up...\n{\"jsonrpc\": 1}\n[]\n\n")
sys.stdout.flush()
sys.stdout.buffer.write(b"\xff\xfe\n")
def call(name, arguments, id):
    print("debugging", flush=True)
    text(id, "fine")
"""
    async with raw(code) as toolset:
        (tool,) = await toolset.list_tools(context)
        with anyio.fail_after(20):
            assert (await tool.call({}, context)).content == "fine"


async def test_what_a_server_gives_as_a_reason_is_short_and_safe_to_print(raw: Raw, no_child_left: None) -> None:
    code = r"""
print("last \x1b[31mwords", file=sys.stderr, flush=True)
error = {"code": -32603, "message": "\x1b[2Jno\u202e" + "x" * 1_000_000}
for line in sys.stdin:
    if "id" in (asked := json.loads(line)):
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
"""
    with anyio.fail_after(20), pytest.raises(MCPConnectionError, match="cannot be reached") as caught:
        await raw(code).__aenter__()
    message = str(caught.value)
    assert len(message) < 5_000
    assert "characters cut" in message
    assert "\x1b" not in message
    assert "\u202e" not in message


async def test_a_tools_name_is_cut_in_what_is_said_of_it(raw: Raw, context: RunContext[None]) -> None:
    async with raw("", tools={"n" * 1_000_000: {}}, on_bad_tool="fail") as toolset:
        with pytest.raises(ToolDefinitionError) as caught:
            await toolset.list_tools(context)
    assert len(str(caught.value)) < 1_000


async def test_a_server_that_never_initializes_ends_at_the_connect_timeout(raw: Raw, no_child_left: None) -> None:
    toolset = raw(
        "print('waiting for nothing', file=sys.stderr)\nfor _ in sys.stdin: pass\n", connect_timeout_s=0.5
    )
    with anyio.fail_after(20), pytest.raises(MCPConnectionError, match=r"connect_timeout_s=0\.5") as caught:
        await toolset.__aenter__()
    assert "waiting for nothing" in str(caught.value)


async def test_a_server_that_never_answers_a_call_times_out_and_stays_usable(
    raw: Raw, context: RunContext[None]
) -> None:
    code = """
gone = []
def call(name, arguments, id):
    if name == "pid":
        text(id, f"cancelled {len(gone)}")
def cancelled(id):
    gone.append(id)
"""
    async with raw(code, tools={"hang": {}, "pid": {}}, call_timeout_s=0.1) as toolset:
        tools = {tool.name: tool for tool in await toolset.list_tools(context)}
        with anyio.fail_after(20):
            output = await tools["hang"].call({}, context)
            assert output.is_error and "Timed out after 0.1 s" in output.content
            assert (await tools["pid"].call({}, context)).content == "cancelled 1"
    # The runner reports it as "timeout", and its own limits for tools do not end it earlier.
    assert output.timed_out and tools["hang"].timeout_s == math.inf


async def test_a_child_that_exits_at_once_is_reported_with_its_last_words(raw: Raw, no_child_left: None) -> None:
    toolset = raw("print('a line before', file=sys.stderr)\nraise RuntimeError('no database')\n")
    with anyio.fail_after(20), pytest.raises(MCPConnectionError, match="no database") as caught:
        await toolset.__aenter__()
    assert "a line before" in caught.value.stderr


async def test_much_stderr_does_not_block_the_child_and_only_its_tail_is_kept(raw: Raw) -> None:
    toolset = raw("for n in range(20_000): print(f'line {n}', file=sys.stderr)\nsys.exit(1)\n")
    with anyio.fail_after(20), pytest.raises(MCPConnectionError) as caught:
        await toolset.__aenter__()
    assert "Its stderr says: line 19999 (its last 20 lines" in str(caught.value)
    assert "line 19981" in caught.value.stderr and "line 19000\n" not in caught.value.stderr


async def test_a_command_that_does_not_exist_is_named(context: RunContext[None]) -> None:
    with pytest.raises(MCPConnectionError, match="no-such-command") as caught:
        await MCPToolset.stdio("no-such-command").__aenter__()
    assert "there is no command 'no-such-command' on PATH. Is it installed?" in str(caught.value)


async def test_the_child_gets_no_secret_of_the_parent(
    raw: Raw, context: RunContext[None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code = "def call(name, arguments, id):\n    text(id, json.dumps([dict(os.environ), os.getcwd()]))\n"
    async with raw(code, env={"GIVEN": "1"}, cwd=tmp_path) as toolset:
        (tool,) = await toolset.list_tools(context)
        text = (await tool.call({}, context)).content
    environment, cwd = json.loads(text)
    assert set(environment) <= {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "GIVEN", "LC_CTYPE", "PWD"}
    assert environment["GIVEN"] == "1" and "hunter2" not in text
    assert os.path.samefile(cwd, tmp_path)


async def test_stdio_server_parameters_are_taken_as_they_are(raw: Raw, context: RunContext[None]) -> None:
    script = raw("def call(name, arguments, id):\n    text(id, 'ok')\n")._target.args[-1]
    async with MCPToolset(StdioServerParameters(command=sys.executable, args=[script])) as toolset:
        (tool,) = await toolset.list_tools(context)
        assert (await tool.call({}, context)).content == "ok"


async def test_a_legacy_server_says_that_its_tools_changed(raw: Raw, context: RunContext[None]) -> None:
    code = """
def call(name, arguments, id):
    TOOLS.append({"name": "extra", "inputSchema": {"type": "object"}})
    send(method="notifications/tools/list_changed")
    text(id, "added")
"""
    async with raw(code, tools={"grow": {}}) as toolset:
        (grow,) = await toolset.list_tools(context)
        before = toolset.revision
        await grow.call({}, context)
        with anyio.fail_after(10):
            while toolset.revision == before:
                await anyio.lowlevel.checkpoint()
        assert [tool.name for tool in await toolset.list_tools(context)] == ["grow", "extra"]


async def test_the_list_is_asked_for_once(raw: Raw, context: RunContext[None]) -> None:
    code = """
n_lists = 0
plain = send
def send(**message):
    global n_lists
    n_lists += "tools" in message.get("result", {})
    plain(**message)
def call(name, arguments, id):
    text(id, str(n_lists))
"""
    async with raw(code) as toolset:
        for _ in range(5):
            (tool,) = await toolset.list_tools(context)
            assert (await tool.call({}, context)).content == "1"


FLOOD = """
def flood():
    for _ in range(16_384):  # 1 GiB
        os.write(1, b"x" * 65_536)
"""


async def test_a_line_without_end_ends_the_call_and_says_why(
    raw: Raw, context: RunContext[None], no_child_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkit.mcp.stdio.MAX_MESSAGE_BYTES", 1 << 20)
    code = f"{FLOOD}\ndef call(name, arguments, id):\n    flood()\n"
    with anyio.fail_after(60):
        async with raw(code, tools={"flood": {}}, call_timeout_s=50) as toolset:
            (tool,) = await toolset.list_tools(context)
            output = await tool.call({}, context)
    assert output.is_error
    assert "connection to the server was lost: it wrote over 1,048,576 bytes to its stdout" in output.content
    assert "write its logs to stderr" in output.content


async def test_a_line_without_end_before_the_connection_is_an_error_that_names_the_server(
    raw: Raw, no_child_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkit.mcp.stdio.MAX_MESSAGE_BYTES", 1 << 20)
    toolset = raw(f"{FLOOD}\nflood()\n")
    with (
        anyio.fail_after(30),
        pytest.raises(MCPConnectionError, match="'raw' cannot be reached: ServerOutputError: .*1,048,576"),
    ):
        await toolset.__aenter__()


def test_a_message_has_one_bound_over_stdio_and_http() -> None:
    assert stdio.MAX_MESSAGE_BYTES == http_client.MAX_MESSAGE_BYTES == 32 << 20


async def test_a_long_line_is_cut_together_again_and_one_byte_more_is_refused() -> None:
    lines = Lines(5)
    assert lines.feed(b"ab") == lines.feed(b"cde") == []
    assert lines.feed(b"\n\nfgh") == [b"abcde", b""]
    assert lines.feed(b"ij\nk\n") == [b"fghij", b"k"]
    for data in (b"123456", b"123456\n", b"\n123456", b"1\n123456\n2"):
        with pytest.raises(ServerOutputError, match="over 5 bytes"):
            Lines(5).feed(data)
    lines.feed(b"12345")
    with pytest.raises(ServerOutputError):
        lines.feed(b"6")


GRANDCHILD = """
import signal, subprocess
def call(name, arguments, id):
    code = "import os, signal, sys, time\\n" + arguments["code"] + "\\nprint('up', flush=True)\\ntime.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    text(id, str(os.getsid(0)))
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize(
    "code",
    [
        "",
        STUBBORN,
        f"os.setpgid(0, 0); {STUBBORN}",
        f"{STUBBORN}; os.fork() and os._exit(0)",
    ],
    ids=["that would end", "that ignores SIGTERM", "in a group of its own", "whose parent is gone"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_closing_ends_a_servers_own_children(
    raw: Raw, context: RunContext[None], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself ends as soon as its stdin is closed."""
    monkeypatch.setattr("agentkit.mcp.stdio.TERMINATE_S", 0.2)
    with anyio.fail_after(30):
        async with raw(GRANDCHILD, tools={"start": {}}) as toolset:
            (tool,) = await toolset.list_tools(context)
            session = int((await tool.call({"code": code}, context)).content)
            assert session != os.getsid(0)
            while len(session_members(session)) != 2:  # a forking parent takes a moment to be gone
                await anyio.sleep(0.01)
    assert session_members(session) == []


async def test_an_encoding_without_lines_is_a_mistake() -> None:
    toolset = MCPToolset(StdioServerParameters(command="true", encoding="utf-16"))
    with pytest.raises(MCPConnectionError, match="'utf-16' cannot be cut into lines"):
        await toolset.__aenter__()
