"""Stores of memories: what every store promises, and what the SQLite file adds."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkit import SQLiteCheckpointer, UserError
from agentkit.errors import CheckpointError
from agentkit.memory import GraphMemoryStore, MemoryStore, MemoryStoreError, SQLiteMemoryStore
from agentkit.memory.embedding import nearest
from agentkit.memory.ranking import fused, query_words, with_recency
from tests.agentkit.memory.fake_embedder import TopicEmbedder

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[SQLiteMemoryStore, GraphMemoryStore], ids=["sqlite", "graph"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], MemoryStore]]:
    """Opens the same file again and again, as processes do."""
    stores: list[MemoryStore] = []

    def open_again() -> MemoryStore:
        stores.append(request.param(tmp_path / "memory.db"))
        return stores[-1]

    yield open_again
    for store in stores:
        store.close()


# --- every store -------------------------------------------------------------------------------------------------


async def test_a_memory_is_found_by_its_words_in_another_process_too(opened: Callable[[], MemoryStore]) -> None:
    added = await opened().add("ann", "Ann prefers tea to coffee.", kind="taste", run_id="run_1", origin="test")
    (match,) = await opened().search("ann", "Which TEA shall I buy?")
    assert match.record == added and 0 < match.score <= 1
    assert (added.user, added.kind, added.run_id, added.origin) == ("ann", "taste", "run_1", "test")
    assert not added.tainted and added.created > 1.7e9
    assert await opened().search("ann", "weather") == []
    assert await opened().search("ann", "?!") == []


@pytest.mark.parametrize("other", ["bob", None, "ANN", "ann2", "ann\u200b", " ann", "%61nn"])
async def test_a_user_never_reads_lists_or_forgets_what_another_one_has(
    opened: Callable[[], MemoryStore], other: str | None
) -> None:
    store = opened()
    added = await store.add("ann", "Ann prefers tea.")
    assert await store.get(other, added.id) is None
    assert await store.search(other, "tea prefers Ann") == []
    assert await store.list(other) == []
    assert not await store.forget(other, added.id)
    assert await store.forget_user(other) == 0
    assert await store.get("ann", added.id) == added


async def test_the_shared_scope_is_a_scope_like_others(opened: Callable[[], MemoryStore]) -> None:
    store = opened()
    added = await store.add(None, "The office is closed on Friday.")
    assert [record.text for record in await store.list(None)] == ["The office is closed on Friday."]
    assert await store.list("ann") == []
    assert not await store.forget("ann", added.id)
    assert await store.forget(None, added.id)


async def test_the_same_text_is_stored_once_and_trusted_if_one_writer_was(
    opened: Callable[[], MemoryStore],
) -> None:
    store = opened()
    first = await store.add("ann", "Ann drinks tea.")
    second = await store.add("ann", "Ann drinks tea.", tainted=True)
    assert (second.id, second.tainted) == (first.id, False)
    assert len(await store.list("ann")) == 1
    assert (await store.add("bob", "Ann drinks tea.", tainted=True)).tainted


async def test_taint_is_stored_and_selects(opened: Callable[[], MemoryStore]) -> None:
    await opened().add("ann", "The account is 12.", tainted=True)
    await opened().add("ann", "The account is 34.")
    store = opened()
    for tainted, text in ((True, "The account is 12."), (False, "The account is 34.")):
        assert [each.record.text for each in await store.search("ann", "account", tainted=tainted)] == [text]
        assert [record.text for record in await store.list("ann", tainted=tainted)] == [text]
    assert len(await store.search("ann", "account")) == 2


async def test_a_list_begins_with_the_newest(opened: Callable[[], MemoryStore]) -> None:
    store = opened()
    for number in range(5):
        await store.add("ann", f"Fact {number}")
    assert [record.text[-1] for record in await store.list("ann", limit=2)] == ["4", "3"]
    assert [record.text[-1] for record in await store.list("ann", limit=2, offset=3)] == ["1", "0"]


async def test_what_is_forgotten_is_not_found_again(opened: Callable[[], MemoryStore]) -> None:
    store = opened()
    tea, dog = await store.add("ann", "Ann drinks tea."), await store.add("ann", "Ann has a dog.")
    await store.add("bob", "Bob drinks tea.")
    assert await store.forget("ann", tea.id) and not await store.forget("ann", tea.id)
    assert await store.search("ann", "tea") == []
    assert [record.id for record in await store.list("ann")] == [dog.id]
    assert await store.forget_user("ann") == 1
    assert await store.list("ann") == []
    assert len(await store.list("bob")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": " \u200b "}, "visible character"),
        ({"text": "x" * 2_001}, "2001 characters; a memory has at most 2000"),
        ({"user": ""}, "1 to 200 characters"),
        ({"user": "x" * 201}, "1 to 200 characters"),
        ({"user": "\ud800"}, "valid Unicode"),
        ({"kind": "two\nlines"}, "kind="),
        ({"origin": ""}, "origin="),
    ],
)
async def test_unusable_arguments_are_refused_with_the_rule(
    opened: Callable[[], MemoryStore], arguments: dict[str, str], message: str
) -> None:
    given: dict[str, Any] = {"user": "ann", "text": "Ann drinks tea.", **arguments}
    with pytest.raises(UserError, match=message):
        await opened().add(**given)


async def test_hidden_characters_are_not_stored(opened: Callable[[], MemoryStore]) -> None:
    record = await opened().add("ann", "Tea\u202e \U000e0041is\u200b good\x1b[2J\r\nor not")
    assert record.text == "Tea is good[2J\nor not"


async def test_any_text_is_a_query(opened: Callable[[], MemoryStore]) -> None:
    store = opened()
    await store.add("ann", 'She said "tea" OR NOT (coffee) * ^ scope:x')
    for query in ('"', "tea\x00", "NEAR(tea coffee)", "text:tea", "scope:u1 tea", "(((tea", "tea*", "\ud800 tea"):
        found = await store.search("ann", query)
        assert bool(found) is ("tea" in query), query
    assert await store.search("ann", "tea " * 100_000)


# --- the SQLite file ---------------------------------------------------------------------------------------------


def bytes_beside(path: Path) -> bytes:
    """All bytes of a database and its log."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*")).lower()


@pytest.mark.parametrize("everything", [False, True], ids=["one memory", "a user"])
async def test_forgotten_text_is_in_no_byte_of_the_file(tmp_path: Path, everything: bool) -> None:
    path, chance = tmp_path / "memory.db", random.Random(7)
    store = SQLiteMemoryStore(path, embedder=TopicEmbedder())
    secrets = [f"zq{number}xylophone{chance.randrange(10**6)}" for number in range(40)]
    for number, secret in enumerate(secrets):
        await store.add("ann", f"The word {secret} is mine")
        await store.add("bob", f"Bob's fact {number}")
    assert all(secret.encode() in bytes_beside(path) for secret in secrets)
    gone = secrets if everything else secrets[3:12]
    if everything:
        assert await store.forget_user("ann") == len(secrets)
    else:
        for secret in gone:
            (match,) = await store.search("ann", secret)
            assert await store.forget("ann", match.record.id)
    found = bytes_beside(path)
    # The index shortens words by their common beginning, so their ends are searched too.
    assert not [secret for secret in gone if secret.encode() in found or secret[-12:].encode() in found]
    assert len(await store.list("bob", limit=1_000)) == len(secrets)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM vectors").fetchone()[0] == 2 * len(secrets) - len(gone)
        file.execute("INSERT INTO memory_words(memory_words) VALUES ('integrity-check')")


async def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    await SQLiteMemoryStore(tmp_path / "memory.db").add("ann", "Ann drinks tea.")
    assert (tmp_path / "memory.db").stat().st_mode & 0o077 == 0


async def test_an_expired_memory_is_never_returned_and_its_text_leaves_the_file(tmp_path: Path) -> None:
    now, path = [1_000_000.0], tmp_path / "memory.db"
    store = SQLiteMemoryStore(path, retention=timedelta(days=1), clock=lambda: now[0])
    old = await store.add("ann", "An oldxylophone fact")
    now[0] += 86_401
    assert await store.get("ann", old.id) is None
    assert (await store.list("ann"), await store.search("ann", "oldxylophone")) == ([], [])
    now[0] += 0.05 * 86_400
    await store.add("bob", "Something new")
    assert b"xylophone" not in bytes_beside(path)
    now[0] += 2 * 86_400
    assert await store.forget_expired() == 1


async def test_a_full_scope_loses_tainted_memories_first_and_then_the_longest_unused(tmp_path: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    store = SQLiteMemoryStore(tmp_path / "memory.db", max_per_user=4, clock=clock)
    oldest = await store.add("ann", "The oldest")
    await store.add("ann", "Unused")
    await store.add("ann", "Tainted", tainted=True)
    await store.add("bob", "Of another user")
    await store.mark_recalled("ann", [oldest.id])
    await store.add("ann", "Fourth")
    await store.add("ann", "Fifth")
    assert [record.text for record in await store.list("ann")] == ["Fifth", "Fourth", "Unused", "The oldest"]
    for number in range(3):  # a flood of tainted text cannot drive out what is trusted
        await store.add("ann", f"Flood {number}", tainted=True)
    assert {record.text for record in await store.list("ann", tainted=False)} == {
        "Fifth",
        "Fourth",
        "The oldest",
    }
    assert len(await store.list("bob")) == 1


async def test_meaning_is_found_without_a_common_word(tmp_path: Path) -> None:
    store = SQLiteMemoryStore(tmp_path / "memory.db", embedder=TopicEmbedder())
    for text in ("Ann prefers tea.", "Ann has a dog.", "Ann is a nurse."):
        await store.add("ann", text)
    assert [match.record.text for match in await store.search("ann", "Which beverage?")] == ["Ann prefers tea."]
    assert await SQLiteMemoryStore(tmp_path / "memory.db").search("ann", "Which beverage?") == []


async def test_memories_of_a_writer_without_an_embedder_get_their_vectors_later(tmp_path: Path) -> None:
    await SQLiteMemoryStore(tmp_path / "memory.db").add("ann", "Ann prefers tea.")
    store = SQLiteMemoryStore(tmp_path / "memory.db", embedder=TopicEmbedder())
    assert [match.record.text for match in await store.search("ann", "beverage")] == ["Ann prefers tea."]


async def test_an_embedder_of_another_name_is_refused_until_the_vectors_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await SQLiteMemoryStore(path, embedder=TopicEmbedder("one")).add("ann", "Ann prefers tea.")
    store = SQLiteMemoryStore(path, embedder=TopicEmbedder("other"))
    refused = "vectors of embedder 'one', and the store was given 'other'"
    with pytest.raises(UserError, match=refused):
        await store.search("ann", "beverage")
    with pytest.raises(UserError, match=refused):
        await store.add("ann", "Ann has a dog.")
    assert len(await store.list("ann")) == 1
    assert await store.reembed() == 1
    assert await store.search("ann", "beverage")
    with pytest.raises(UserError, match="vectors of embedder 'other'"):
        await SQLiteMemoryStore(path, embedder=TopicEmbedder("one")).search("ann", "beverage")


async def test_an_embedder_that_returns_another_shape_is_refused(tmp_path: Path) -> None:
    embedder = TopicEmbedder()
    embedder.width = 3
    store = SQLiteMemoryStore(tmp_path / "memory.db", embedder=embedder)
    with pytest.raises(UserError, match=r"shape \(1, 4\) for 1 texts"):
        await store.add("ann", "Ann prefers tea.")


@pytest.mark.parametrize("other", ["journal", "graph", "damaged"])
async def test_another_programs_file_is_refused_and_left_as_it_is(tmp_path: Path, other: str) -> None:
    path = tmp_path / "other.db"
    if other == "journal":
        SQLiteCheckpointer(path).database._open()  # pyright: ignore[reportPrivateUsage]
    elif other == "graph":
        graph = GraphMemoryStore(path)
        await graph.add("ann", "Ann prefers tea.")
        graph.close()
    else:
        path.write_bytes(b"no database at all" * 100)
    before = path.read_bytes()
    with pytest.raises(MemoryStoreError, match=r"other\.db"):
        await SQLiteMemoryStore(path).add("ann", "Ann prefers tea.")
    assert path.read_bytes() == before


async def test_a_file_of_a_later_format_is_refused(tmp_path: Path) -> None:
    store = SQLiteMemoryStore(tmp_path / "memory.db")
    await store.add("ann", "Ann prefers tea.")
    store.close()
    with closing(sqlite3.connect(store.path)) as file:
        file.execute("PRAGMA user_version = 9")
    with pytest.raises(MemoryStoreError, match="has format 9"):
        await store.list("ann")
    with pytest.raises(CheckpointError, match="another program's database"):
        await SQLiteCheckpointer(store.path).list_runs()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ":memory:"}, "is no file"),
        ({"path": "m.db", "max_per_user": 0}, "max_per_user=0"),
        ({"path": "m.db", "retention": timedelta(0)}, "longer than nothing"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SQLiteMemoryStore(**options)  # pyright: ignore[reportArgumentType]


# --- ranking -----------------------------------------------------------------------------------------------------


def test_the_nearest_vectors_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    chance = np.random.default_rng(3)
    vectors = chance.normal(size=(2_000, 32)).astype("<f4") + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [(10 * number, vector.tobytes()) for number, vector in enumerate(vectors)]
    reference = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(vectors)
    for query in vectors[:20] + 0.1 * chance.normal(size=(20, 32)).astype("<f4"):
        query = (query / np.linalg.norm(query)).astype("<f4")
        expected = [10 * int(number) for number in reference.kneighbors(query[None])[1][0]]
        assert nearest(query.tobytes(), rows, 20) == expected


def test_a_memory_that_is_first_by_words_and_by_meaning_is_first() -> None:
    assert fused([["a", "b"], ["a", "c"]])["a"] == 1.0
    assert fused([["a", "b"], []]) == fused([["a", "b"]])
    scores = fused([["a", "b", "c"], ["b", "a", "d"]])
    assert scores["a"] == scores["b"] > scores["c"] == scores["d"]


def test_of_equal_relevance_the_newer_is_first_and_age_never_hides_what_fits() -> None:
    day, now = 86_400.0, 2e9
    ranked = with_recency({"old": 0.9, "new": 0.9}, {"old": now - 900 * day, "new": now - day}, now)
    assert list(ranked) == ["new", "old"]
    ranked = with_recency({"old": 1.0, "new": 0.5}, {"old": 0.0, "new": now}, now)
    assert list(ranked) == ["old", "new"]


def test_the_words_of_a_query_are_bounded_and_from_both_ends() -> None:
    assert query_words("Is it Tea, or 7 Kaffees? \u00c4 tea") == ["tea", "7", "kaffees", "\u00e4"]
    words = query_words(" ".join(f"word{number}" for number in range(100_000)))
    assert len(words) == 48 and {"word0", "word99999"} <= set(words)


async def test_a_store_of_ones_own_forgets_a_user_memory_by_memory(tmp_path: Path) -> None:
    class OwnStore(SQLiteMemoryStore):
        forget_user = MemoryStore.forget_user

    store = OwnStore(tmp_path / "memory.db")
    for number in range(3):
        await store.add("ann", f"Fact {number}")
    await store.add("bob", "Fact")
    assert await store.forget_user("ann") == 3
    assert (len(await store.list("ann")), len(await store.list("bob"))) == (0, 1)
