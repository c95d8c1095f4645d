"""Arguments: what the schema says is what the server takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel.server import Server
from server_harness import asker

from mcp_servers import __version__
from mcp_servers.browser.chromium import Settings
from mcp_servers.browser.server import build_server as browser
from mcp_servers.fetch.server import build_server as fetch
from mcp_servers.filesystem.server import build_server as filesystem
from mcp_servers.git.server import build_server as git_server
from mcp_servers.memory.server import build_server as memory
from mcp_servers.python.server import build_server as python_server
from mcp_servers.search.server import build_server as search
from mcp_servers.sqlite.server import build_server as sqlite
from mcp_servers.strict import CHANGES, READS, ToolResult, strict_tool
from mcp_servers.time.server import build_server as time_server
from tests.mcp_servers.git_repository import new_repository

pytestmark = pytest.mark.anyio


def _sqlite(folder: Path) -> Server[Any]:
    (folder / "a.db").touch()
    return sqlite(str(folder / "a.db"), write=True, export=str(folder))


SERVERS: dict[str, Callable[[Path], Server[Any]]] = {
    "filesystem": lambda folder: filesystem(str(folder), write=True),
    "fetch": lambda folder: fetch(),
    "git": lambda folder: git_server(str(new_repository(folder / "repository")), write=True),
    "sqlite": _sqlite,
    "memory": lambda folder: memory(str(folder / "memory.db")),
    "search": lambda folder: search(str(folder), index=str(folder / "index.db")),
    "python": lambda folder: python_server(),
    "time": lambda folder: time_server("UTC"),
    "browser": lambda folder: browser(["http://localhost:1"], Settings("/nonexistent", sandbox=True)),
}
OPEN_WORLD = {"fetch", "browser"}
CHANGING = {
    "filesystem": {"write_file", "edit_file", "create_directory", "move", "delete"},
    "git": {"git_add", "git_unstage", "git_commit", "git_create_branch", "git_switch"},
    "sqlite": {"execute", "export_csv"},
    "memory": {
        "remember", "create_entities", "create_relations", "add_observations", "delete_entities",
        "delete_observations", "delete_relations",
    },
    "search": {"refresh"},
    "python": {"drop_session"},
    "browser": {
        "open", "back", "scroll", "scroll_at", "move_to", "click", "type_text", "select_option", "press_key",
        "click_at", "drag", "type_keys",
    },
}  # fmt: skip


@pytest.fixture(params=SERVERS)
def server_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(server_name: str, tmp_path: Path) -> Server[Any]:
    return SERVERS[server_name](tmp_path)


async def test_every_schema_is_closed_and_valid(server: Any, server_name: str) -> None:
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            jsonschema.Draft202012Validator.check_schema(tool.input_schema)
            assert tool.input_schema["additionalProperties"] is False
            assert tool.output_schema is not None and tool.output_schema["additionalProperties"] is False
            assert tool.description and "\n" not in tool.description
            assert tool.annotations is not None
            assert tool.annotations.open_world_hint is (server_name in OPEN_WORLD)


async def test_the_server_introduces_itself(server: Any) -> None:
    async with Client(server) as client:
        assert client.server_info is not None and client.server_info.version == __version__
        assert client.instructions


async def test_read_tools_are_marked_as_such_and_the_others_are_not(server: Any, server_name: str) -> None:
    changing = CHANGING.get(server_name, set())
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint is (tool.name not in changing)


@pytest.mark.parametrize("path", [1, True, None, ["a"], {"a": "b"}])
async def test_a_mistyped_string_is_an_error(tmp_path: Path, path: Any) -> None:
    async with Client(filesystem(str(tmp_path))) as client:
        text, is_error = await asker(client)("read_text_file", path=path)
    assert is_error and "argument 'path' should be a valid string" in text


@pytest.mark.parametrize("depth", ["1", True, 1.5, "[1]", None, 0, 65])
async def test_a_mistyped_integer_is_an_error_for_schema_and_server_alike(tmp_path: Path, depth: Any) -> None:
    async with Client(filesystem(str(tmp_path))) as client:
        schema = next(t.input_schema for t in (await client.list_tools()).tools if t.name == "tree")
        assert not jsonschema.Draft202012Validator(schema).is_valid({"depth": depth})
        assert (await asker(client)("tree", depth=depth))[1]


@pytest.mark.parametrize("parameters", ["[1]", [True], [[1]], [{}], {"a": 1}])
async def test_mistyped_parameters_are_an_error(tmp_path: Path, parameters: Any) -> None:
    (tmp_path / "a.db").touch()
    async with Client(sqlite(str(tmp_path / "a.db"))) as client:
        text, is_error = await asker(client)("query", sql="select ?", parameters=parameters)
    assert is_error and "argument 'parameters" in text


async def test_an_unknown_argument_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    async with Client(filesystem(str(tmp_path))) as client:
        text, is_error = await asker(client)("list_directory", paht=".")
    assert is_error and "unknown argument 'paht'. Did you mean 'path'?" in text


async def test_a_missing_argument_is_an_error_that_lists_the_arguments(tmp_path: Path) -> None:
    async with Client(filesystem(str(tmp_path))) as client:
        text, is_error = await asker(client)("read_text_file")
    assert is_error and text.startswith("read_text_file: missing argument 'path'. Its arguments: path (string),")


async def test_an_unknown_tool_is_a_protocol_error_that_names_the_nearest(server: Any) -> None:
    async with Client(server) as client:
        known = (await client.list_tools()).tools[0].name
        with pytest.raises(MCPError, match=f"Did you mean '{known}'"):
            await client.call_tool(known + "s", {})


async def test_changing_tools_are_absent_without_write(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    for server in (filesystem(str(tmp_path)), sqlite(str(tmp_path / "a.db"))):
        async with Client(server) as client:
            for tool in (await client.list_tools()).tools:
                assert tool.annotations is not None and tool.annotations.read_only_hint


def test_hidden_characters_are_those_that_the_client_takes_out() -> None:
    """Servers stand alone, so the set is written down twice; every character is in both or in neither."""
    from agentkit.basics.hidden import strip_data
    from mcp_servers.hidden import visible

    selectors = set(range(0xFE00, 0xFE10))  # single ones beside other than ASCII stay
    joiners = {0x200C, 0x200D}
    for number in set(range(0x11_0000)) - selectors - joiners:
        char = chr(number)
        assert visible(char) == strip_data(char)[0], hex(number)


class Said(ToolResult):
    text: str

    def as_text(self) -> str:
        return self.text


class Sayer:
    """A tool bound to one of many objects."""

    def __init__(self, text: str) -> None:
        self.text = text

    def say(self, n: int = 1) -> Said:
        """Say it."""
        return Said(text=n * self.text)


def test_a_method_is_described_once_and_its_tools_have_their_own_object_and_annotations() -> None:
    one, other = strict_tool(Sayer("a").say, READS), strict_tool(Sayer("b").say, CHANGES)
    assert one.arguments is other.arguments
    assert (one.definition.annotations, other.definition.annotations) == (READS, CHANGES)
    assert (one.function(n=2), other.function(n=2)) == (Said(text="aa"), Said(text="bb"))


def test_functions_made_in_a_function_are_described_each() -> None:
    def sayer(default: int) -> Callable[..., Said]:
        def say(n: int = default) -> Said:
            """Say it."""
            return Said(text="a" * n)

        return say

    schemas = [strict_tool(sayer(default), READS).definition.input_schema for default in (1, 2)]
    assert [schema["properties"]["n"]["default"] for schema in schemas] == [1, 2]
