"""Resources of servers: lists, contents, hostile ones, changes, and the tools that offer them to a model.

The honest servers are mcp's own `MCPServer` and our filesystem server, the hostile ones its low-level server.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.server import MCPServer, Server
from mcp.server.mcpserver import Context

from agentkit import Agent, tool
from agentkit.context import RunContext
from agentkit.errors import MCPConnectionError, MCPRequestError, UserError
from agentkit.mcp import MCPToolset, Resource, ResourceTemplate
from agentkit.messages import BinaryContent
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import ToolAnnotations
from agentkit.tools.tool import Tool, ToolOutput
from mcp_servers.filesystem.server import build_server

pytestmark = pytest.mark.anyio
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])

ListPage = types.ListResourcesResult
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0" + bytes(16)


@pytest.fixture
def library() -> MCPServer:
    """A server of mcp's own with three resources, one of them a template."""
    server = MCPServer("library")

    @server.resource("books://index", name="index", title="The index", description="All\u200b books.")
    def index() -> str:
        return "1 Emma\n2 Ulysses"

    @server.resource("books://cover", mime_type="image/png")
    def cover() -> bytes:
        return PIXEL

    @server.resource("books://{number}/text", mime_type="text/markdown")
    def text(number: str) -> str:
        return f"# Book {number}"

    @server.tool()
    async def touch(ctx: Context[Any, Any]) -> str:
        await ctx.notify_resource_updated("books://index")
        return "done"

    return server


@both_eras
async def test_resources_and_templates_are_listed_without_hidden_characters(library: MCPServer, mode: str) -> None:
    async with MCPToolset(library, mode=mode) as toolset:
        listed = await toolset.list_resources()
        assert Resource("books://index", "index", "The index", "All books.", "text/plain") in listed
        assert [each.uri for each in listed] == ["books://index", "books://cover"]
        (template,) = await toolset.list_resource_templates()
        assert template == ResourceTemplate("books://{number}/text", "text", None, "", "text/markdown")


@both_eras
async def test_texts_and_files_are_read(library: MCPServer, mode: str) -> None:
    async with MCPToolset(library, mode=mode) as toolset:
        index = await toolset.read_resource("books://index")
        assert (index.text, index.content, index.is_untrusted) == ("1 Emma\n2 Ulysses", "1 Emma\n2 Ulysses", True)
        (_, cover) = await toolset.list_resources()
        contents = await toolset.read_resource(cover)
        assert contents.items[0].data == PIXEL
        assert contents.content == (BinaryContent(PIXEL, "image/png", "books://cover"),)
        assert (await toolset.read_resource("books://7/text")).text == "# Book 7"


async def test_a_missing_resource_and_a_server_without_resources_are_told_apart(
    library: MCPServer, adder: MCPServer
) -> None:
    async with MCPToolset(library, id="library") as toolset:
        with pytest.raises(MCPRequestError, match="MCP server 'library' cannot read 'books://none'"):
            await toolset.read_resource("books://none")
    async with MCPToolset(Server("bare", version="1")) as toolset:
        assert (await toolset.list_resources(), await toolset.list_prompts()) == ([], [])
        assert await toolset.list_tools(RunContext(deps=None)) == ()
        with pytest.raises(MCPRequestError, match="Method not found"):
            await toolset.read_resource("books://index")


async def test_a_toolset_must_be_entered(library: MCPServer) -> None:
    with pytest.raises(UserError, match="not connected"):
        await MCPToolset(library).list_resources()


def serving(
    read: Callable[[str], list[Any]] = lambda uri: [],
    page: Callable[[str | None], types.ListResourcesResult] = lambda cursor: ListPage(resources=[]),
) -> Server[Any]:
    """A low-level server whose answers the test makes."""

    async def on_list_resources(context: Any, params: Any) -> ListPage:
        return page(params.cursor if params else None)

    async def on_read_resource(context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=read(str(params.uri)))

    return Server("raw", version="1", on_list_resources=on_list_resources, on_read_resource=on_read_resource)


def resource(uri: str) -> types.Resource:
    return types.Resource(uri=uri, name=uri)


async def test_pages_are_joined_and_unusable_uris_left_out() -> None:
    pages = {
        None: ListPage(resources=[resource("a:1")], next_cursor="b"),
        "b": ListPage(resources=[resource("a:\u202e2"), resource("a:" + "x" * 9_000), resource("a:3")]),
    }
    async with MCPToolset(serving(page=lambda cursor: pages[cursor])) as toolset:
        assert [each.uri for each in await toolset.list_resources()] == ["a:1", "a:3"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (lambda cursor: ListPage(resources=[], next_cursor="again"), "repeats a cursor on page 2"),
        (
            lambda cursor: ListPage(resources=[], next_cursor=f"{cursor}x"),
            "goes on after max_pages=5 pages",
        ),
        (
            lambda cursor: ListPage(resources=[resource("a:" + "x" * 8_000)] * 900, next_cursor=f"{cursor}x"),
            "8,000,000 bytes are taken",
        ),
    ],
)  # fmt: skip
async def test_a_list_without_end_is_refused(page: Any, message: str) -> None:
    async with MCPToolset(serving(page=page), max_pages=5) as toolset:
        with pytest.raises(MCPRequestError, match=message):
            await toolset.list_resources()


async def test_contents_are_cut_cleaned_and_checked() -> None:
    def read(uri: str) -> list[Any]:
        if uri == "a:bad":
            return [types.BlobResourceContents(uri=uri, blob="no base64!")]
        hidden = types.TextResourceContents(uri=uri, text="read\U000e0041 me")
        return [hidden, types.TextResourceContents(uri=uri, text="x" * 300)]

    async with MCPToolset(serving(read), result_limit=100) as toolset:
        contents = await toolset.read_resource("a:1")
        assert contents.items[0].data == "read me\n[1 hidden characters removed]"
        assert contents.items[1].data == "x" * 92 + "\n[208 of 300 characters cut]"
        with pytest.raises(MCPRequestError, match="its content is not Base64"):
            await toolset.read_resource("a:bad")
    async with MCPToolset(serving(read), trust="trusted") as toolset:
        contents = await toolset.read_resource("a:1")
        assert (contents.items[0].data, contents.is_untrusted) == ("read\U000e0041 me", False)


async def test_a_file_that_models_do_not_read_is_bytes_for_the_program_and_a_note_for_the_model() -> None:
    blob = types.BlobResourceContents(
        uri="a:1", mime_type="application/zip", blob=base64.b64encode(b"PK12").decode()
    )
    async with MCPToolset(serving(lambda uri: [blob])) as toolset:
        contents = await toolset.read_resource("a:1")
        assert (contents.items[0].data, contents.items[0].media_type) == (b"PK12", "application/zip")
        assert contents.content == "[resource a:1: application/zip, 6 bytes]"
        assert contents.text == ""


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async def on_read_resource(context: Any, params: Any) -> types.ReadResourceResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with MCPToolset(Server("slow", on_read_resource=on_read_resource), call_timeout_s=0.05) as toolset:
        with pytest.raises(MCPRequestError, match=r"no answer within 0\.05 s"):
            await toolset.read_resource("a:1")


DYING = """
import os
inner = main
def main():
    global initialize
    def initialize(id):
        send(id=id, result={"protocolVersion": "2025-11-25", "serverInfo": {"name": "raw", "version": "1"},
                            "capabilities": {"resources": {"subscribe": True}}})
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message["method"], message.get("id")
        if method == "server/discover":
            send(id=id, error={"code": -32601, "message": "Method not found"})
        elif method == "initialize":
            initialize(id)
        elif method == "resources/read":
            if not os.path.exists(PATH):
                open(PATH, "w").close()
                os._exit(1)
            uri = message["params"]["uri"]
            send(id=id, result={"contents": [{"uri": uri, "text": "here"}]})
        elif method == "resources/subscribe":
            send(id=id, result={})
            send(method="notifications/resources/updated", params={"uri": "a:1/part"})
            send(method="notifications/resources/updated", params={"uri": "b:2"})
            send(method="notifications/resources/updated", params={"uri": "a:1"})
            send(method="notifications/resources/updated", params={"uri": "a:1"})
            sys.stdin.readline()
            os._exit(1)
"""


async def test_reading_is_repeated_once_after_a_lost_connection(
    raw: Callable[..., MCPToolset], tmp_path: Path
) -> None:
    async with raw(f"PATH = {str(tmp_path / 'died')!r}\n{DYING}") as toolset:
        assert (await toolset.read_resource("a:1")).text == "here"
    assert (tmp_path / "died").exists()


async def test_a_subscription_gives_each_changed_resource_once_and_ends_with_the_connection(
    raw: Callable[..., MCPToolset], tmp_path: Path
) -> None:
    toolset = raw(f"PATH = {str(tmp_path / 'died')!r}\n{DYING}", reconnect=False)
    async with toolset, toolset.subscribe("a:1") as changes:
        seen = [await anext(changes), await anext(changes)]
        with pytest.raises(MCPConnectionError, match="went away"), anyio.fail_after(10):
            await toolset.get_prompt("any")  # the server's next line: it ends
        with pytest.raises(MCPConnectionError, match="subscribe again"), anyio.fail_after(10):
            seen += [uri async for uri in changes]
    assert set(seen) == {"a:1/part", "a:1"}


@both_eras
async def test_a_changed_file_is_told_to_its_subscribers_only(tmp_path: Path, mode: str) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    async with MCPToolset(build_server(str(tmp_path), poll_s=0.02), mode=mode) as toolset:
        async with (
            toolset.subscribe("file:///a.txt") as of_a,
            toolset.subscribe("file:///a.txt", "file:///b.txt") as of_both,
        ):
            (tmp_path / "b.txt").write_text("22", encoding="utf-8")
            with anyio.fail_after(10):
                assert await anext(of_both) == "file:///b.txt"
                (tmp_path / "a.txt").unlink()
                assert await anext(of_a) == "file:///a.txt"
                assert await anext(of_both) == "file:///a.txt"
        with anyio.fail_after(10):
            async with toolset.subscribe("file:///a.txt") as again:
                (tmp_path / "a.txt").write_text("3", encoding="utf-8")
                assert await anext(again) == "file:///a.txt"


async def test_a_change_that_a_tool_of_mcps_own_server_publishes_is_received(library: MCPServer) -> None:
    async with MCPToolset(library) as toolset:
        (touch,) = await toolset.list_tools(RunContext(deps=None))
        async with toolset.subscribe("books://index") as changes:
            await touch.call({}, RunContext(deps=None))
            with anyio.fail_after(10):
                assert await anext(changes) == "books://index"


@both_eras
async def test_a_server_without_subscriptions_is_told_to_the_caller(mode: str) -> None:
    async with MCPToolset(serving(), mode=mode, id="raw") as toolset:
        with pytest.raises(MCPRequestError, match="MCP server 'raw' cannot notify of changes of 'a:1'"):
            async with toolset.subscribe("a:1"):
                pass
        with pytest.raises(UserError, match="needs the URI"):
            async with toolset.subscribe():
                pass


# -- tools for the model ---------------------------------------------------------------------------------------


async def resource_tools_of(toolset: MCPToolset) -> dict[str, Tool]:
    return {tool.name: tool for tool in await toolset.list_tools(RunContext(deps=None))}


async def test_a_model_lists_and_reads_resources_with_tools(library: MCPServer, context: RunContext[None]) -> None:
    async with MCPToolset(library, resources="tools") as toolset:
        tools = await resource_tools_of(toolset)
        listed = await tools["list_resources"].call({}, context)
        assert listed.content.splitlines() == [
            "books://index The index [text/plain]: All books.",
            "books://cover cover [image/png]:",
            "books://{number}/text text [text/markdown]: (fill in the braces)",
        ]
        read = await tools["read_resource"].call({"uri": "books://2/text"}, context)
        assert read == ToolOutput("# Book 2")
        missing = await tools["read_resource"].call({"uri": "books://none"}, context)
        assert missing.is_error and "books://none" in missing.content
        assert (
            await tools["list_resources"].call({"page": 2}, context)
        ).content == "There is no page 2; the last is 1."
        flags = [(tools[n].is_untrusted, tools[n].is_consequential) for n in ("list_resources", "read_resource")]
        assert flags == [(True, False), (True, True)]
    async with MCPToolset(library, resources="tools", assume_harmless=True) as toolset:
        assert not (await resource_tools_of(toolset))["read_resource"].is_consequential


async def test_a_long_list_is_read_page_by_page(context: RunContext[None]) -> None:
    found = ListPage(resources=[resource(f"a:{n}") for n in range(250)])
    async with MCPToolset(serving(page=lambda cursor: found), resources="tools") as toolset:
        tools = await resource_tools_of(toolset)
        last = await tools["list_resources"].call({"page": 3}, context)
        assert last.content.splitlines()[0] == "a:200 a:200:"
        assert last.content.endswith("a:249 a:249:\n(page 3 of 3)")


async def test_a_servers_own_tool_keeps_its_name_and_without_resources_there_are_no_tools(
    adder: MCPServer,
) -> None:
    own = MCPServer("own")

    @own.tool()
    def read_resource(path: str) -> str:
        return f"own {path}"

    @own.resource("a://b")
    def b() -> str:
        return "b"

    async with MCPToolset(own, resources="tools") as toolset:
        tools = await resource_tools_of(toolset)
        assert sorted(tools) == ["list_resources", "read_resource"]
        assert "path" in tools["read_resource"].definition.parameters_json_schema["properties"]
    async with MCPToolset(serving(), resources="tools") as toolset:
        assert sorted(await resource_tools_of(toolset)) == ["list_resources", "read_resource"]
    bare: Server[Any] = Server("bare", version="1", on_list_prompts=lambda context, params: None)  # pyright: ignore
    async with MCPToolset(bare, resources="tools") as toolset:
        assert await resource_tools_of(toolset) == {}
    with pytest.raises(UserError, match="resources='all': give 'tools'"):
        MCPToolset(adder, resources="all")  # pyright: ignore[reportArgumentType]


async def test_reading_a_resource_taints_the_run(library: MCPServer) -> None:
    model = ScriptedModel([call("read_resource", uri="books://index"), "Two books."])
    result = await Agent(model, toolsets=[MCPToolset(library, resources="tools")]).run("Which books?")
    assert (result.output, result.state.tainted) == ("Two books.", True)


async def test_a_prompt_with_a_resource_taints_the_run_if_the_application_says_so(library: MCPServer) -> None:
    paid: list[int] = []

    @tool(annotations=ToolAnnotations(destructive=True))
    def pay(euros: int) -> str:
        """Pay."""
        paid.append(euros)
        return "paid"

    async with MCPToolset(library) as toolset:
        contents = await toolset.read_resource("books://index")
    for is_tainted, status in ((contents.is_untrusted, "needs_approval"), (False, "completed")):
        model = ScriptedModel([call("pay", euros=5), "Paid."])
        result = await Agent(model, tools=[pay]).run(["Pay?", contents.text], tainted=is_tainted)
        assert (result.status, result.state.tainted) == (status, is_tainted)
    assert paid == [5]
    with pytest.raises(UserError, match="tainted='yes': tainted takes True or False"):
        await Agent(ScriptedModel([]), tools=[pay]).run("Pay?", tainted="yes")  # pyright: ignore[reportArgumentType]
