"""The memory server's tools: what is kept, what is the same, what is told."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, StdioServerParameters
from server_harness import REPOSITORY, Ask, ask_once, asker

from mcp_servers.memory.policy import MAX_ITEMS, MAX_NAME_CHARS, MAX_OBSERVATIONS, MAX_TEXT_CHARS, MAX_TEXTS
from mcp_servers.memory.server import build_server

pytestmark = pytest.mark.anyio

ANNA = {"name": "Anna", "entityType": "person", "observations": ["likes tea", "lives in Berlin"]}
ACME = {"name": "ACME", "entityType": "company"}
WORKS_AT = {"from": "Anna", "relationType": "works at", "to": "ACME"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "memory.db")


@pytest.fixture(scope="module")
async def ask_of_nothing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ask]:
    """Serve an empty store to calls that must leave it empty."""
    async with Client(build_server(str(tmp_path_factory.mktemp("empty") / "memory.db"))) as client:
        yield asker(client)


async def structured(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error and result.structured_content is not None
    return result.structured_content


async def test_what_is_saved_is_found_and_told(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        assert await ask("read_graph") == ("nothing is known yet", False)
        assert await ask("create_entities", entities=[ANNA, ACME]) == ("added 2 entities, 2 observations", False)
        assert await ask("create_relations", relations=[WORKS_AT]) == ("added 1 relation", False)
        added = await ask("add_observations", observations=[{"entityName": "ACME", "contents": ["makes anvils"]}])
        assert added == ("added 1 observation", False)
    async with Client(build_server(store)) as client:  # another server, another day
        ask = asker(client)
        anna = "Anna (person)\n- likes tea\n- lives in Berlin\n"
        assert await ask("open_nodes", names=["Anna"]) == (f"{anna}Anna -> works at -> ACME", False)
        assert await ask("read_graph") == (
            "2 entities, 3 observations, 1 relation\n"
            f"{anna}ACME (company)\n- makes anvils\nAnna -> works at -> ACME",
            False,
        )
        assert await ask("search_nodes", query="tea") == ("Anna (person): likes [tea]; lives in Berlin", False)


async def test_one_flat_call_remembers_a_fact(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        assert await ask("remember", name="Anna", fact="likes tea") == ("added 1 entity, 1 observation", False)
        assert await ask("remember", name="anna", fact="plays chess", kind="person") == (
            "added 1 observation\nthere already: Anna (thing)",
            False,
        )
        assert await ask("open_nodes", names=["ANNA"]) == ("Anna (thing)\n- likes tea\n- plays chess", False)


async def test_over_stdio(store: str) -> None:
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.memory", store], cwd=REPOSITORY
    )
    async with Client(target) as client:
        assert not (await asker(client)("remember", name="Anna", fact="likes tea"))[1]
        assert await asker(client)("search_nodes", query="te") == ("Anna (thing): likes [tea]", False)


async def test_the_results_have_the_shape_of_the_reference_server(store: str) -> None:
    async with Client(build_server(store)) as client:
        await structured(client, "create_entities", entities=[ANNA, ACME])
        await structured(client, "create_relations", relations=[WORKS_AT])
        for tool, arguments in (("read_graph", {}), ("open_nodes", {"names": ["Anna", "ACME"]})):
            content = await structured(client, tool, **arguments)
            assert content["entities"] == [{**ANNA, "more": 0}, {**ACME, "observations": [], "more": 0}]
            assert content["relations"] == [WORKS_AT]


async def test_what_is_there_already_is_reported_and_not_doubled(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA, ACME])
        await ask("create_relations", relations=[WORKS_AT])
        before = await structured(client, "read_graph"), await structured(client, "list_changes")
        assert await ask("create_entities", entities=[ANNA]) == (
            "added nothing\nthere already: Anna (person); Anna: likes tea; Anna: lives in Berlin",
            False,
        )
        again = {"from": "ANNA", "relationType": "Works  At", "to": "acme"}
        assert await ask("create_relations", relations=[again]) == (
            "added nothing\nthere already: Anna -> Works At -> ACME",
            False,
        )
        text, _ = await ask(
            "add_observations", observations=[{"entityName": "anna", "contents": [" likes tea\n"]}]
        )
        assert text == "added nothing\nthere already: Anna: likes tea"
        assert (await structured(client, "read_graph"), await structured(client, "list_changes")) == before


async def test_an_entity_that_exists_gets_the_observations_it_lacks(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA])
        more = {"name": "anna", "entityType": "cat", "observations": ["likes tea", "plays chess"]}
        assert await ask("create_entities", entities=[more, more]) == (
            "added 1 observation\nthere already: Anna (person); Anna: likes tea; Anna (person); Anna: likes tea; "
            "Anna: plays chess",
            False,
        )


@pytest.mark.parametrize(
    ("saved", "asked"),
    [
        ("M\u00fcller", "Mu\u0308ller"),  # NFC and NFD
        ("M\u00fcller", "M\u00dcLLER"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u1e9b\u0323", "\u017f\u0323\u0307"),  # canonically equal, in another order
        ("Anna  Maria", " anna maria "),
    ],
)
async def test_names_are_the_same_in_any_case_and_composition(store: str, saved: str, asked: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[{"name": saved, "entityType": "x"}])
        assert (await ask("create_entities", entities=[{"name": asked, "entityType": "x"}]))[0].startswith(
            "added no"
        )
        assert not (await ask("open_nodes", names=[asked]))[1]
        assert await ask("delete_entities", entityNames=[asked]) == ("deleted 1 entity", False)


async def test_deleting_an_entity_takes_its_observations_and_relations(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA, ACME])
        loop = {"from": "Anna", "relationType": "knows", "to": "Anna"}
        back = {"from": "ACME", "relationType": "employs", "to": "Anna"}
        await ask("create_relations", relations=[WORKS_AT, loop, back])
        assert await ask("delete_entities", entityNames=["anna"]) == (
            "deleted 1 entity, 2 observations, 3 relations",
            False,
        )
        assert await ask("read_graph") == ("1 entity\nACME (company)", False)
        assert await ask("search_nodes", query="tea") == ("nothing found", False)


async def test_deleting_parts(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA, ACME])
        await ask("create_relations", relations=[WORKS_AT])
        deletions = [{"entityName": "Anna", "observations": ["likes tea", "likes coffee"]}]
        assert await ask("delete_observations", deletions=deletions) == (
            "deleted 1 observation\nnot found: Anna: likes coffee (open_nodes shows the observations)",
            False,
        )
        unknown = {"from": "Anna", "relationType": "owns", "to": "ACME"}
        lower = {"from": "anna", "relationType": "WORKS AT", "to": "acme"}
        assert await ask("delete_relations", relations=[unknown, lower]) == (
            "deleted 1 relation\nnot found: Anna -> owns -> ACME (open_nodes shows the relations)",
            False,
        )
        assert await ask("read_graph") == (
            "2 entities, 1 observation\nAnna (person)\n- lives in Berlin\nACME (company)",
            False,
        )
        assert await ask("search_nodes", query="tea") == ("nothing found", False)


async def test_deleting_what_is_not_there_is_said_and_no_error(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA])
        assert await ask("delete_entities", entityNames=["Ana", "Bob"]) == (
            "deleted nothing\nnot found: Ana Did you mean 'Anna'?; Bob",
            False,
        )
        text, is_error = await ask("delete_observations", deletions=[{"entityName": "Bob", "observations": ["x"]}])
        assert (text, is_error) == ("deleted nothing\nnot found: Bob", False)


async def test_a_call_with_one_wrong_name_changes_nothing(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA, ACME])
        before = await structured(client, "read_graph"), await structured(client, "list_changes")
        wrong = {"from": "Anna", "relationType": "works at", "to": "ACNE"}
        text, is_error = await ask("create_relations", relations=[WORKS_AT, wrong])
        assert is_error and text == "There is no entity 'ACNE'. Did you mean 'ACME'?"
        contents = [{"entityName": "Anna", "contents": ["new"]}, {"entityName": "Zoe", "contents": ["new"]}]
        text, is_error = await ask("add_observations", observations=contents)
        assert is_error and "create_entities makes one" in text
        too_long = [{**ACME, "name": "New"}, {**ANNA, "observations": ["x" * (MAX_TEXT_CHARS + 1)]}]
        assert (await ask("create_entities", entities=too_long))[1]
        assert (await structured(client, "read_graph"), await structured(client, "list_changes")) == before


async def test_unknown_names_are_answered_with_the_nearest(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        await ask("create_entities", entities=[ANNA])
        assert await ask("open_nodes", names=["Ana"]) == ("There is no entity 'Ana'. Did you mean 'Anna'?", True)
        assert await ask("open_nodes", names=["Xy"]) == (
            "There is no entity 'Xy'. search_nodes finds names.",
            True,
        )
        text, is_error = await ask("open_nodes", names=["Xy", "anna"])
        assert not is_error and text.endswith("not found: Xy")


@pytest.mark.parametrize(
    ("tool", "arguments", "hint"),
    [
        ("remember", {"name": " ", "fact": "x"}, "The name is empty"),
        ("remember", {"name": "x", "fact": "\n"}, "The observation is empty"),
        ("remember", {"name": "a" * (MAX_NAME_CHARS + 1), "fact": "x"}, "has 201 characters; at most 200"),
        ("remember", {"name": "x", "fact": "a" * (MAX_TEXT_CHARS + 1)}, "Split it into several"),
        ("remember", {"name": "x", "fact": "a", "kind": "k" * 101}, "The entityType"),
        ("remember", {"name": "a\0b", "fact": "x"}, "control character U+0000"),
        ("remember", {"name": "x", "fact": "a\x1b[31m"}, "control character U+001B"),
        ("remember", {"name": "x\ud800", "fact": "a"}, "argument 'name'"),
        (
            "create_relations",
            {"relations": [{"from": "a", "relationType": "r" * 101, "to": "b"}]},
            "The relationType",
        ),
        ("search_nodes", {"query": "x" * 1_001}, "1001 characters"),
        ("search_nodes", {"query": "a " * 33}, "33 words"),
        ("search_nodes", {"query": "..."}, "has no word"),
        ("create_entities", {"entities": []}, "at least 1 item"),
        ("create_entities", {"entities": [ACME] * (MAX_ITEMS + 1)}, "at most 100 items"),
        ("create_entities", {"entities": [{**ACME, "observations": ["x"] * 100}] * 6}, f"at most {MAX_TEXTS}"),
        ("create_entities", {"entities": [{**ACME, "color": "red"}]}, "unknown argument 'entities.0"),
        ("create_entities", {"entities": [{"name": "x"}]}, "missing argument 'entities.0"),
        ("create_entities", {"entities": [{**ACME, "name": 1}]}, "argument 'entities.0"),
        ("create_entities", {"entities": ANNA}, "argument 'entities'"),
        ("create_entities", {"entities": "[]"}, "argument 'entities'"),
        (
            "create_relations",
            {"relations": [{"source": "a", "relation": "b", "target": "c"}]},
            "argument 'relations.0",
        ),
        ("delete_entities", {"names": ["Anna"]}, "unknown argument 'names'"),
        ("open_nodes", {"names": [1]}, "argument 'names.0'"),
        ("read_graph", {"after": -1}, "argument 'after'"),
    ],
)
async def test_a_wrong_argument_is_an_error_that_says_what_to_do(
    ask_of_nothing: Ask, tool: str, arguments: dict[str, Any], hint: str
) -> None:
    text, is_error = await ask_of_nothing(tool, **arguments)
    assert is_error and hint in text, text
    assert await ask_of_nothing("read_graph") == ("nothing is known yet", False)
    assert await ask_of_nothing("list_changes") == ("no changes", False)


async def test_one_entity_has_a_limit_of_observations(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        texts = [f"fact {number}" for number in range(MAX_OBSERVATIONS)]
        for start in range(0, MAX_OBSERVATIONS, MAX_ITEMS):
            entity = {"name": "Anna", "entityType": "x", "observations": texts[start : start + MAX_ITEMS]}
            assert not (await ask("create_entities", entities=[entity]))[1]
        text, is_error = await ask("remember", name="Anna", fact="one more")
        assert is_error and "would have 501 observations; at most 500. Nothing was saved" in text
        assert not (await ask("remember", name="Anna", fact="fact 1"))[1]


async def test_a_text_cannot_look_like_another_line_or_hide(store: str) -> None:
    async with Client(build_server(store)) as client:
        ask = asker(client)
        hostile = "a\r\nBob (person)\n\u202e\u200b\U000e0041\u00e9"
        await ask("remember", name="Anna", fact=hostile)
        text, _ = await ask("open_nodes", names=["Anna"])
        assert text == "Anna (thing)\n- a\\nBob (person)\\n\\u202e\\u200b\\U000e0041\u00e9"
        content = await structured(client, "open_nodes", names=["Anna"])
        assert content["entities"][0]["observations"] == ["a\nBob (person)\n\u202e\u200b\U000e0041\u00e9"]
        deletion = {"entityName": "Anna", "observations": [hostile]}
        assert await ask("delete_observations", deletions=[deletion]) == ("deleted 1 observation", False)


async def test_every_change_is_in_the_history_and_a_deletion_can_be_taken_back_from_it(store: str) -> None:
    async with Client(build_server(store)) as client:
        await structured(client, "create_entities", entities=[ANNA, ACME])
        await structured(client, "create_relations", relations=[WORKS_AT])
        before = await structured(client, "read_graph")
        await structured(client, "delete_entities", entityNames=["Anna"])
        text, _ = await asker(client)("list_changes", entity="ANNA")
        lines = [line.split(" ", 2)[2] for line in text.splitlines()]
        assert lines == [
            "delete_entities: entity Anna (person)",
            "delete_entities: relation Anna -> works at -> ACME",
            "delete_entities: observation Anna: lives in Berlin",
            "delete_entities: observation Anna: likes tea",
            "create_relations: relation Anna -> works at -> ACME",
            "create_entities: observation Anna: lives in Berlin",
            "create_entities: observation Anna: likes tea",
            "create_entities: entity Anna (person)",
        ]
        changes = (await structured(client, "list_changes"))["changes"]
        deleted = [change for change in reversed(changes) if change["call"] == changes[0]["call"]]
        assert {change["change"] for change in deleted} == {"deleted"} and changes[0]["at"].endswith("+00:00")
        entity = next(change for change in deleted if change["what"] == "entity")
        texts = [change["content"] for change in deleted if change["what"] == "observation"]
        again = {"name": entity["name"], "entityType": entity["content"], "observations": texts}
        await structured(client, "create_entities", entities=[again])
        relations = [
            {"from": change["name"], "relationType": change["content"], "to": change["target"]}
            for change in deleted
            if change["what"] == "relation"
        ]
        await structured(client, "create_relations", relations=relations)
        after = await structured(client, "read_graph")
        assert sorted(after["entities"], key=str) == sorted(before["entities"], key=str)
        assert after["relations"] == before["relations"]


async def test_a_read_only_server_offers_reading_and_creates_nothing(store: str) -> None:
    with pytest.raises(Exception, match="does not exist"):
        build_server(store, read_only=True)
    assert not Path(store).exists()
    await ask_once(build_server(store), "create_entities", entities=[ANNA])
    before = Path(store).read_bytes()
    async with Client(build_server(store, read_only=True)) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {"read_graph", "search_nodes", "open_nodes", "list_changes"}
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert (await asker(client)("search_nodes", query="tea"))[0].startswith("Anna")
    assert Path(store).read_bytes() == before


async def test_the_published_schemas_are_closed_and_what_comes_back_fits_them(store: str) -> None:
    async with Client(build_server(store)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        for tool in tools.values():
            assert tool.output_schema is not None
            for schema in (tool.input_schema, tool.output_schema):
                jsonschema.Draft202012Validator.check_schema(schema)
                objects = [schema, *schema.get("$defs", {}).values()]
                assert all(part["additionalProperties"] is False for part in objects)
        calls: list[tuple[str, dict[str, Any]]] = [
            ("remember", {"name": "Bob", "fact": "likes coffee"}),
            ("create_entities", {"entities": [ANNA, ACME]}),
            ("create_relations", {"relations": [WORKS_AT]}),
            ("add_observations", {"observations": [{"entityName": "Bob", "contents": ["x"]}]}),
            ("read_graph", {}),
            ("search_nodes", {"query": "tea"}),
            ("open_nodes", {"names": ["Anna"]}),
            ("delete_observations", {"deletions": [{"entityName": "Bob", "observations": ["x"]}]}),
            ("delete_relations", {"relations": [WORKS_AT]}),
            ("delete_entities", {"entityNames": ["Bob"]}),
            ("list_changes", {}),
        ]
        assert {name for name, _ in calls} == tools.keys()
        for name, arguments in calls:
            jsonschema.validate(arguments, tools[name].input_schema)
            jsonschema.validate(await structured(client, name, **arguments), tools[name].output_schema or {})


async def test_adding_is_marked_as_adding_and_deleting_as_destructive(store: str) -> None:
    async with Client(build_server(store)) as client:
        for tool in (await client.list_tools()).tools:
            assert tool.annotations is not None
            is_reading = tool.name.startswith(("read", "search", "open", "list"))
            is_deleting = tool.name.startswith("delete")
            hints = (tool.annotations.read_only_hint, tool.annotations.destructive_hint)
            assert hints == (is_reading, is_deleting)
