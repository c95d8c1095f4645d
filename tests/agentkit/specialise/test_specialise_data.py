from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.server import MCPServer

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.mcp.toolset import MCPToolset
from agentkit.specialise.build import TEST, TRAINING, build, general_file
from agentkit.specialise.cases import Cases
from agentkit.specialise.harvest import Harvest, harvest
from agentkit.specialise.live import LiveTool, call, connected
from agentkit.specialise.recipe import SpecialiseRecipe
from agentkit.specialise.statements import ask_in_words, sql_parameter, writes
from agentkit.specialise.wording import wordings_of
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset
from modelstack.data.examples import Example, check_example, read_examples
from modelstack.data.tools.spoken import scene
from tests.agentkit.specialise.live_servers import database_server, files_server, write_world

SMALL = SpecialiseRecipe(examples=60, test_examples=20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def _told(text: str) -> None:
    del text


def _built(world: Path, out: Path, recipe: SpecialiseRecipe = SMALL) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        toolsets = [files_server(world, "--write"), database_server(world, "--write")]
        async with connected(toolsets) as tools:
            found = await harvest(tools)
            return await build(tools, found, recipe, out, None, _told)

    return anyio.run(run)


@pytest.fixture(scope="module")
def data(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    _built(world, out)
    return out


def test_values_are_found_by_calling_what_only_reads(world: Path) -> None:
    async def run() -> Harvest:
        async with connected([files_server(world, "--write"), database_server(world, "--write")]) as tools:
            return await harvest(tools)

    before = _content(world)
    found = anyio.run(run)
    assert {"notes/todo.md", "reports/q1.csv", "readme.md"} <= set(found.good["read_text_file", "path"])
    assert not {"notes", "reports"} & set(found.good["read_text_file", "path"])  # a folder cannot be read
    assert set(found.good["describe_table", "table"]) == {"customers", "orders"}
    assert found.tables["orders"] == ["id", "customer_id", "total"]
    assert _content(world) == before


def test_a_list_without_field_names_gives_values_for_what_its_tool_lists() -> None:
    stock, reads = MCPServer("stock"), types.ToolAnnotations(read_only_hint=True)

    @stock.tool(annotations=reads)
    def list_articles() -> list[str]:
        return ["hinge", "oak board"]

    @stock.tool(annotations=reads)
    def count_article(article: str) -> int:
        return {"hinge": 36, "oak board": 12}[article]

    async def run() -> Harvest:
        async with connected([MCPToolset(stock)]) as tools:
            return await harvest(tools)

    assert anyio.run(run).good == {("count_article", "article"): ["hinge", "oak board"]}


def test_a_value_is_shared_by_parameters_of_one_name_on_one_server(world: Path) -> None:
    async def run() -> tuple[list[Any], list[Any]]:
        async with connected([files_server(world, "--write"), database_server(world)]) as tools:
            found = await harvest(tools)
            by_name = {tool.name: tool for tool in tools}
            return (
                found.values(tools, by_name["delete"], "path"),
                found.values(tools, by_name["query"], "path"),
            )

    of_delete, of_query = anyio.run(run)
    assert "notes/todo.md" in of_delete
    assert of_query == []


def test_examples_are_valid_and_of_all_sorts(data: Path) -> None:
    examples = list(read_examples(data / TRAINING))
    for example in examples:
        check_example(example)
    assert {example.kind for example in examples} == {"call", "parallel", "multi", "irrelevant", "clarify"}
    assert len({tool for example in examples for tool in (call.name for call in example.calls)}) >= 12


def test_a_near_miss_does_not_show_what_it_asks_for(data: Path) -> None:
    examples = [e for e in read_examples(data / TRAINING) if e.id.startswith("train-removed")]
    asked = {e.messages[-1].content: {c.name for c in e.calls} for e in read_examples(data / TRAINING) if e.calls}
    assert examples
    for example in examples:
        shown = {tool.name for tool in example.tools}
        assert not asked.get(example.messages[-1].content, set()) & shown


def test_test_and_training_share_no_request_and_the_test_shows_all_tools(data: Path) -> None:
    training, test = list(read_examples(data / TRAINING)), list(read_examples(data / TEST))
    assert not {e.messages[-1].content for e in training} & {e.messages[-1].content for e in test}
    assert {len(e.tools) for e in test if e.calls} == {16}
    assert {e.split for e in test} == {"test"}


def test_values_of_the_server_are_on_one_side_only(world: Path, data: Path) -> None:
    def paths(examples: list[Example]) -> set[str]:
        given = [c.arguments.get("path") for e in examples for c in e.calls if c.name == "read_text_file"]
        return {path for path in given if path and (world / "files" / path).is_file()}

    of_training, of_test = (paths(list(read_examples(data / name))) for name in (TRAINING, TEST))
    assert not of_training & of_test
    assert of_training


def test_the_same_servers_and_seed_give_the_same_bytes(world: Path, data: Path, tmp_path: Path) -> None:
    _built(world, tmp_path)
    for name in (TRAINING, TEST):
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes()
    assert general_file(tmp_path).read_bytes() == general_file(data).read_bytes()


def test_examples_over_other_tools_are_as_many_as_their_share(data: Path) -> None:
    n_own, n_general = len(list(read_examples(data / TRAINING))), len(list(read_examples(general_file(data))))
    assert 0.15 < n_general / (n_own + n_general) < 0.35


class _Toys(Toolset):
    """Tools that remember how they were called."""

    def __init__(self, *definitions: ToolDefinition, answer: Any = None) -> None:
        self.definitions, self.answer = definitions, answer
        self.calls: list[tuple[str, Mapping[str, Any]]] = []

    async def list_tools(self, context: RunContext[Any]) -> list[Tool]:
        return [Tool(each, self._caller(each.name), self._validate) for each in self.definitions]

    def _caller(self, name: str) -> Any:
        async def called(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
            self.calls.append((name, arguments))
            return ToolOutput("", self.answer)

        return called

    @staticmethod
    def _validate(text: str) -> dict[str, Any]:
        import json

        return json.loads(text)


def _definition(name: str, about: str, *, read_only: bool | None, **parameters: Any) -> ToolDefinition:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return ToolDefinition(name, about, schema, annotations=ToolAnnotations(read_only=read_only))


def test_only_tools_that_say_that_they_read_are_ever_called(tmp_path: Path) -> None:
    toys = _Toys(
        _definition("list_rooms", "List the rooms.", read_only=True),
        _definition("heat_room", "Heat a room.", read_only=False, room={"type": "string"}),
        _definition("drop_room", "Delete a room.", read_only=None, room={"type": "string"}),
        answer={"rooms": ["attic", "cellar", "hall"]},
    )

    async def run() -> None:
        async with connected([toys]) as tools:
            await build(tools, await harvest(tools), SMALL, tmp_path, None, _told)

    anyio.run(run)
    assert {name for name, _ in toys.calls} == {"list_rooms"}


def test_nothing_is_called_where_that_is_forbidden(tmp_path: Path) -> None:
    toys = _Toys(_definition("list_rooms", "List the rooms.", read_only=True))

    async def run() -> None:
        async with connected([toys]) as tools:
            recipe = SMALL.model_copy(update={"execute": "never"})
            await build(tools, Harvest(), recipe, tmp_path, None, _told)

    anyio.run(run)
    assert toys.calls == []


def test_tools_of_one_name_are_refused_with_the_way_out() -> None:
    async def run() -> None:
        one = _definition("look", "Look.", read_only=True)
        async with connected([_Toys(one), _Toys(one)]):
            raise AssertionError("not reached")

    with pytest.raises(UserError, match="prefixes, --mcp NAME=SERVER"):
        anyio.run(run)


def test_a_tool_that_fails_is_an_outcome() -> None:
    toys = _Toys(_definition("look", "Look.", read_only=True))

    async def run() -> bool:
        async with connected([toys]) as tools:
            broken = replace(tools[0], runnable=replace(tools[0].runnable, call=_failing))
            return (await call(broken, {})).is_error

    assert anyio.run(run)


async def _failing(arguments: dict[str, Any], context: RunContext[Any]) -> Any:
    from agentkit.errors import ToolFailed

    raise ToolFailed("no")


def _live(name: str, about: str, **parameters: Any) -> LiveTool:
    definition = _definition(name, about, read_only=True, **parameters)
    from agentkit.specialise.live import _shown

    tool = Tool(definition, _failing, _Toys._validate)
    return LiveTool("toys", _shown(tool), tool)


def test_wishes_come_from_description_and_name_in_the_imperative() -> None:
    tool = _live("git_checkout", "Switches branches", branch_name={"type": "string"})
    assert [w.api.wish for w in wordings_of(tool)] == ["show the git checkout", "switch branches"]
    named = _live(
        "read_text_file", "Read a text file. Says more.", path={"type": "string", "description": "Path of a file."}
    )
    first = wordings_of(named)[0]
    assert first.api.wish == "read a text file"
    assert first.nouns == {"path": "text file"}


def test_sql_is_said_in_words_and_names_only_what_there_is() -> None:
    tool = _live("query", "Read with SQL.", sql={"type": "string", "description": "One SELECT statement."})
    assert sql_parameter(tool) == "sql"
    assert not writes(tool)
    for number in range(60):
        clause = ask_in_words(tool, {"orders": ["id", "total"]}, scene("sql", number))
        assert clause is not None
        statement = clause.calls[0][1]["sql"]
        assert statement.startswith("SELECT ")
        assert "FROM orders" in statement
    changing = _live("run", "Change with SQL.", sql={"type": "string", "description": "INSERT or UPDATE"})
    assert writes(changing)


def test_a_table_whose_name_is_no_name_is_left_alone() -> None:
    tool = _live("query", "Read with SQL.", sql={"type": "string"})
    assert ask_in_words(tool, {'x"; drop table y': ["id"], "z": ["a b"]}, scene("sql")) is None


def test_a_question_back_lacks_what_it_asks_for(world: Path) -> None:
    async def run() -> list[Example | None]:
        async with connected([files_server(world, "--write")]) as tools:
            cases = Cases(tools, await harvest(tools), SMALL, "train")
            return [cases.make("clarify", number) for number in range(30)]

    made = [example for example in anyio.run(run) if example is not None]
    assert made
    for example in made:
        assert example.reply is not None
        assert not example.calls


@pytest.mark.parametrize("shares", [{"calls": 1.0}, {"multi": 1.0}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        SpecialiseRecipe(shares=shares)


def _content(world: Path) -> str:
    files = sorted(path for path in world.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()
