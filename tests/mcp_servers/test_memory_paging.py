"""Long answers of the memory server: in pages that together say everything once; searches, ranked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from server_harness import asker

from mcp_servers.memory.policy import Limits
from mcp_servers.memory.server import build_server

pytestmark = pytest.mark.anyio

SMALL = Limits(max_answer_bytes=600, max_entity_bytes=150, max_matches=3)
NAMES = [f"node {number}" for number in range(20)]


async def structured(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error and result.structured_content is not None
    return result.structured_content


@asynccontextmanager
async def small_server(folder: Path) -> AsyncGenerator[Client]:
    """Start a server with short answers and a store of twenty nodes."""
    async with Client(build_server(str(folder / "memory.db"), limits=SMALL)) as client:
        entities = [
            {"name": name, "entityType": "node", "observations": [f"{name} has fact {n}" for n in range(number)]}
            for number, name in enumerate(NAMES)
        ]
        await structured(client, "create_entities", entities=entities)
        relations = [
            {"from": a, "relationType": "before", "to": b} for a, b in zip(NAMES, NAMES[1:], strict=False)
        ]
        await structured(client, "create_relations", relations=relations)
        yield client


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """Serve one store to the tests that only read."""
    async with small_server(tmp_path_factory.mktemp("paging")) as client:
        yield client


async def test_the_pages_of_the_graph_have_every_entity_once(client: Client) -> None:
    names: list[str] = []
    shown = left_out = after = 0
    while True:
        page = await structured(client, "read_graph", after=after)
        names += [entity["name"] for entity in page["entities"]]
        shown += sum(len(entity["observations"]) for entity in page["entities"]) + len(page["relations"])
        left_out += sum(entity["more"] for entity in page["entities"])
        after = page["next_after"]
        if not after:
            break
    assert names == NAMES
    assert shown + left_out == page["total_observations"] + page["total_relations"] == 190 + 19
    assert left_out > 0


async def test_a_page_says_how_to_go_on(client: Client) -> None:
    text, _ = await asker(client)("read_graph")
    assert text.startswith("20 entities, 190 observations, 19 relations\nnode 0 (node)")
    assert "more; open_nodes shows them)" in text and "(more entities; go on with after=" in text
    assert (
        (await asker(client)("open_nodes", names=NAMES))[0]
        .splitlines()[-1]
        .startswith("(more; go on with offset=")
    )
    assert (
        (await asker(client)("list_changes"))[0]
        .splitlines()[-1]
        .startswith("(earlier changes: go on with before=")
    )
    assert (await asker(client)("search_nodes", query="fact"))[0].endswith("(19 in all; go on with offset=3)")


async def test_a_page_goes_on_rightly_while_others_delete(tmp_path: Path) -> None:
    async with small_server(tmp_path) as client:
        page = await structured(client, "read_graph")
        await structured(client, "delete_entities", entityNames=[page["entities"][0]["name"]])
        following = await structured(client, "read_graph", after=page["next_after"])
        assert following["entities"][0]["name"] == NAMES[len(page["entities"])]
        assert await asker(client)("read_graph", after=10**9) == (
            "19 entities, 190 observations, 18 relations",
            False,
        )


async def test_the_pages_of_opened_nodes_have_every_fact_once(client: Client) -> None:
    facts: list[str] = []
    relations: list[tuple[str, ...]] = []
    entities: list[str] = []
    offset = pages = 0
    while True:
        page = await structured(client, "open_nodes", names=NAMES, offset=offset)
        facts += [text for entity in page["entities"] for text in entity["observations"]]
        entities += [entity["name"] for entity in page["entities"] if entity["name"] not in entities]
        relations += [tuple(relation.values()) for relation in page["relations"]]
        offset = page["next_offset"]
        pages += 1
        if not offset:
            break
    assert entities == NAMES and pages > 3
    assert facts == [f"{name} has fact {n}" for number, name in enumerate(NAMES) for n in range(number)]
    assert len(relations) == len(set(relations)) == 19


async def test_the_pages_of_the_history_have_every_change_once(client: Client) -> None:
    numbers: list[int] = []
    before = 0
    while True:
        page = await structured(client, "list_changes", before=before)
        numbers += [change["id"] for change in page["changes"]]
        before = page["next_before"]
        if not before:
            break
    assert numbers == list(range(20 + 190 + 19, 0, -1))


async def test_the_pages_of_a_search_have_every_match_once(client: Client) -> None:
    names: list[str] = []
    offset = 0
    while True:
        page = await structured(client, "search_nodes", query="fact", offset=offset)
        names += [match["name"] for match in page["matches"]]
        offset = page["next_offset"]
        if not offset:
            break
    assert sorted(names) == sorted(NAMES[1:]) and page["total"] == 19


async def test_default_answers_stay_near_32_kib(tmp_path: Path) -> None:
    texts = [f"{number} " + "\u4e2d" * 1_900 for number in range(30)]
    async with Client(build_server(str(tmp_path / "memory.db"))) as client:
        for number in range(10):
            entity = {"name": f"{number} " + "\u4e2d" * 190, "entityType": "x", "observations": texts}
            await structured(client, "create_entities", entities=[entity])
        calls: list[tuple[str, dict[str, Any]]] = [
            ("read_graph", {}),
            ("open_nodes", {"names": ["0 " + "\u4e2d" * 190]}),
            ("list_changes", {}),
            ("search_nodes", {"query": "1"}),
        ]
        for tool, arguments in calls:
            text, is_error = await asker(client)(tool, **arguments)
            assert not is_error and 1_000 < len(text.encode()) < 40 * 1024, tool


async def test_a_search_ranks_names_first_and_prefers_all_words(tmp_path: Path) -> None:
    async with Client(build_server(str(tmp_path / "memory.db"))) as client:
        entities = [
            {"name": "Bob", "entityType": "person", "observations": ["drinks tea with Anna", "lives in Rome"]},
            {"name": "Tea", "entityType": "drink", "observations": ["is hot"]},
            {"name": "Caf\u00e9 Roma", "entityType": "place", "observations": ["sells coffee"]},
        ]
        await structured(client, "create_entities", entities=entities)

        async def names(query: str) -> list[str]:
            matches = (await structured(client, "search_nodes", query=query))["matches"]
            return [match["name"] for match in matches]

        assert await names("tea") == ["Tea", "Bob"]
        assert await names("bob rome") == ["Bob"]  # words of the name and of two observations
        assert await names("ROM") == ["Caf\u00e9 Roma", "Bob"]  # the last word is a prefix
        assert await names("rom bob") == ["Bob"]  # others are not, so any word counts
        assert await names("cafe") == ["Caf\u00e9 Roma"]
        text, _ = await asker(client)("search_nodes", query="where can I buy coffee?")
        assert text.startswith("(none has all the words; these have some)\nCaf\u00e9 Roma (place): sells [coffee]")
        assert await asker(client)("search_nodes", query="tea", offset=9) == ("no more; 2 found", False)


@pytest.mark.parametrize(
    "query",
    [
        *('"', '""', '"tea', "tea*", "*tea", "tea OR", "AND", "NOT tea", "NEAR(a b)", "NEAR(a b, 9)", "name:tea"),
        *(
            "- tea",
            "^tea",
            "{name kind}: tea",
            "(tea",
            "tea)",
            "te\0a",
            "a+b",
            "tea' OR 1=1 --",
            "\u202etea",
            "\\",
        ),
        *(
            "search MATCH 'x'",
            "'; DROP TABLE entities; --",
            "%",
            "_",
            "{}",
            "a:b:c",
            "\U0001f600 tea",
            "\u0301tea",
        ),
    ],
)
async def test_no_query_is_a_syntax_error(client: Client, query: str) -> None:
    text, _ = await asker(client)("search_nodes", query=query)
    assert "syntax" not in text and "fts5" not in text and "cannot be used" not in text
    assert (await structured(client, "read_graph"))["total_entities"] == 20
