"""Search by words and by meaning: ranking, the index of vectors, its model, kills, two writers, damage."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters
from server_harness import REPOSITORY, asker, kill_when_inside
from word_embedder import WordEmbedder

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.search import embedding, vector_table
from mcp_servers.search.finding import Place
from mcp_servers.search.folder_index import FolderIndex, open_folder
from mcp_servers.search.fusion import fused
from mcp_servers.search.nearest import VectorSearch, stored_forms
from mcp_servers.search.policy import Limits
from mcp_servers.search.queries import parse_query
from mcp_servers.search.server import build_server
from mcp_servers.search.windows import WINDOW_CHARS, windows_of

WAIT_S = 60.0
TEXTS = {
    "animals.md": "# Animals\nThe kitten sleeps.\n",
    "cars.md": "# Cars\nAn automobile has four wheels.\n",
    "money/pay.md": "# Money\nThe salary is paid in June.\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for path, text in TEXTS.items():
        write(folder / path, text)
    return folder


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Callable[..., FolderIndex]]:
    """Open the folder, index and embed it; each is closed after the test."""
    with ExitStack() as stack:

        def start(embedder: Any, **options: Any) -> FolderIndex:
            index = open_folder(str(folder), index=str(tmp_path / "index.db"), embedder=embedder, **options)
            stack.callback(index.close)
            return filled(index)

        yield start


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def filled(index: FolderIndex) -> FolderIndex:
    """Wait until files are read and passages embedded."""
    assert not index.background.run_one(WAIT_S)[1].is_running
    if index.embedding is not None:
        assert not index.embedding.wait_idle(WAIT_S).is_running
    return index


EVERYWHERE = Place()


def paths(
    index: FolderIndex, query: str, mode: Any = "hybrid", place: Place = EVERYWHERE, count: int = 10
) -> list[str]:
    found = index.passages(parse_query(query), place, count, mode, index.background.state)
    return [each.path for each in found]


def rows(folder: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(folder.parent / "index.db")) as connection:
        return connection.execute(sql).fetchall()


# -- ranking


def test_a_passage_without_the_words_is_found_by_its_meaning(opened: Callable[..., FolderIndex]) -> None:
    index = opened(WordEmbedder())
    assert paths(index, "cat", "lexical") == []
    assert paths(index, "cat", "vector")[0] == paths(index, "cat")[0] == "animals.md"
    assert paths(index, "wage vehicle", count=2) == paths(index, "wage vehicle", "vector", count=2)


def test_both_rankings_are_fused_by_their_ranks() -> None:
    assert fused([[1, 2, 3], [3, 4]]) == pytest.approx({3: 1 / 63 + 1 / 61, 1: 1 / 61, 2: 1 / 62, 4: 1 / 62})
    assert list(fused([[1, 2, 3], [3, 4]])) == [3, 1, 2, 4]
    assert fused([[], []]) == {}


def test_excluded_words_and_places_hold_for_meaning_too(opened: Callable[..., FolderIndex]) -> None:
    index = opened(WordEmbedder())
    assert "animals.md" not in paths(index, "cat -sleeps", "vector")
    assert paths(index, "cat", "vector", Place(path="money")) == ["money/pay.md"]
    assert paths(index, "cat", "hybrid", Place(kind="md"))[0] == "animals.md"
    with pytest.raises(ToolFailure, match="No indexed file is 'monet'"):
        paths(index, "cat", "vector", Place(path="monet"))


def test_a_long_passage_is_found_by_its_end_and_shows_it(folder: Path, opened: Callable[..., FolderIndex]) -> None:
    lines = [f"filler number{number} " + "word " * 16 for number in range(30)]
    write(folder / "long.txt", "\n".join([*lines, "the feline is here"]))
    index = opened(WordEmbedder())
    found, n_by_meaning = index.find(parse_query("kitten"), Place(path="long.txt"), 1, index.background.state)
    assert n_by_meaning == 1 and (found.hits[0].first_line, found.hits[0].last_line) == (1, 31)
    assert found.hits[0].lines[0].number > 20  # of the nearest window, as no word matches


def test_words_alone_are_searched_without_numpy(folder: Path) -> None:
    code = (
        "import sys; from mcp_servers.search.server import build_server\n"
        "build_server(sys.argv[1], index=sys.argv[2])\n"
        "assert not {'numpy', 'modelstack', 'tokenizers'} & set(sys.modules), sorted(sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(folder.parent / "i.db")]
    subprocess.run(arguments, check=True, cwd=REPOSITORY)


@pytest.mark.anyio
async def test_the_server_says_how_it_ranked_and_what_is_embedded(folder: Path) -> None:
    embedder = WordEmbedder()
    server = build_server(str(folder), index=str(folder.parent / "i.db"), embedder=embedder)
    async with Client(server) as client:
        ask = asker(client)
        await ask("refresh")
        while f"3 passages have vectors of {embedder.name}" not in (await ask("index_status"))[0]:
            pass
        text, is_error = await ask("search", query="a cat")
        assert not is_error and text.startswith("The best 3 passages of 3 files, by words and by meaning.")
        assert text.splitlines()[1].startswith("animals.md:1-2")
        assert "  2: The kitten sleeps." in text
        assert "No indexed file" in (await ask("search", query="cat", path="nowhere"))[0]


@pytest.mark.anyio
async def test_the_command_searches_by_meaning_in_a_confined_process(minilm_model: Path, folder: Path) -> None:
    arguments = ["-m", "mcp_servers.search", str(folder), "--index", str(folder.parent / "i.db"), "--embeddings"]
    target = StdioServerParameters(command=sys.executable, args=arguments, cwd=REPOSITORY)
    async with Client(target) as client:
        ask = asker(client)
        await ask("refresh")
        while "3 passages have vectors of all-MiniLM-L6-v2@" not in (await ask("index_status"))[0]:
            pass
        assert "animals.md" in (await ask("search", query="a young pet that rests"))[0].splitlines()[1]


# -- vectors


@pytest.mark.parametrize("width", [96, 100, 384])
def test_nearest_passages_are_those_of_an_exact_comparison(width: int) -> None:
    random = np.random.default_rng(width)
    centres = random.standard_normal((40, width))
    vectors = centres[random.integers(40, size=6_000)] + 0.6 * random.standard_normal((6_000, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    search = VectorSearch(width)
    with closing(table_of(vectors)) as connection:
        found = 0
        for query in vectors[:60]:
            exact = set(np.argsort(-(vectors @ query))[:10].tolist())
            near = search.nearest(connection, query, 10)
            assert [each.similarity for each in near] == sorted((each.similarity for each in near), reverse=True)
            assert near[0].similarity == pytest.approx(1, abs=0.01)
            found += len(exact & {each.passage_id for each in near})
    assert found / 600 >= 0.98


def table_of(vectors: Any) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    for statement in vector_table.SCHEMA:
        connection.execute(statement)
    vector_table.use_embedder(connection, "m", vectors.shape[1], "refuse")
    for number, (code, value) in enumerate(stored_forms(vectors)):
        embedding._insert(connection, number, [(0, code, value)])
    return connection


def test_codes_of_removed_vectors_are_never_anothers_and_are_read_anew() -> None:
    vectors = WordEmbedder().embed([f"word{number}" for number in range(2_000)])
    search = VectorSearch(96)
    with closing(table_of(vectors[:1_500])) as connection:
        assert search.nearest(connection, vectors[3], 1)[0].passage_id == 3
        vector_table.remove_vectors(connection, range(10))
        assert search.nearest(connection, vectors[3], 1)[0].passage_id > 9
        embedding._insert(connection, 5_000, [(0, *stored_forms(vectors[1_600:1_601])[0])])
        assert search.nearest(connection, vectors[1_600], 1)[0].passage_id == 5_000
        vector_table.remove_vectors(connection, range(10, 1_499))
        assert {each.passage_id for each in search.nearest(connection, vectors[20], 10)} == {1_499, 5_000}


def test_an_index_without_vectors_has_no_nearest_passage() -> None:
    with closing(table_of(np.empty((0, 96), np.float32))) as connection:
        assert VectorSearch(96).nearest(connection, WordEmbedder().embed(["x"])[0], 5) == []


@given(st.text(st.sampled_from("ab \n"), max_size=40), st.integers(2, 12))
def test_windows_hold_the_whole_text_in_pieces_that_fit(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mcp_servers.search.windows.WINDOW_CHARS", size)
        windows = windows_of("", text)
    assert all(len(window.text.replace("\n", "")) <= size for window in windows)
    assert "".join("".join(window.text.split()) for window in windows) == "".join(text.split())
    lines = text.split("\n")
    assert all(window.text.split("\n")[0] in lines[window.line] for window in windows)


def test_a_window_has_the_headings_of_its_passage() -> None:
    windows = windows_of("Guide > Install", "x" * (WINDOW_CHARS + 1))
    assert [window.text.partition("\n")[0] for window in windows] == ["Guide > Install"] * 2
    assert windows_of("Guide", " \n ") == []


# -- the index


def test_a_changed_file_keeps_the_vectors_of_its_other_passages(
    folder: Path, opened: Callable[..., FolderIndex]
) -> None:
    write(folder / "animals.md", "# One\nfirst kitten\n\n# Two\nsecond car\n")
    embedder = WordEmbedder()
    index = opened(embedder)
    ids = dict(rows(folder, "SELECT body, vectors.id FROM words JOIN vectors ON passage_id = words.rowid"))
    embedder.embedded.clear()
    write(folder / "animals.md", "intro\n\n# One\nfirst kitten\n\n# Two\nsecond automobile wheel\n")
    filled(index)
    assert sorted(embedder.embedded) == ["Two\n# Two\nsecond automobile wheel", "intro\n"]
    now = dict(rows(folder, "SELECT body, vectors.id FROM words JOIN vectors ON passage_id = words.rowid"))
    assert now["# One\nfirst kitten\n"] == ids["# One\nfirst kitten\n"]
    check_vectors(folder)
    assert paths(index, "feline", count=1) == ["animals.md"]


def check_vectors(folder: Path) -> None:
    """Check that each passage has vectors, and each vector a passage and a code."""
    assert rows(folder, "PRAGMA integrity_check") == [("ok",)]
    assert rows(folder, "SELECT count(*) FROM passages WHERE id NOT IN (SELECT passage_id FROM vectors)") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM vectors WHERE passage_id NOT IN (SELECT id FROM passages)") == [(0,)]
    assert rows(folder, "SELECT id FROM vectors ORDER BY id") == rows(folder, "SELECT id FROM codes ORDER BY id")


def test_a_removed_file_takes_its_vectors_with_it(folder: Path, opened: Callable[..., FolderIndex]) -> None:
    index = opened(WordEmbedder())
    assert paths(index, "cat", count=1) == ["animals.md"]
    (folder / "animals.md").unlink()
    filled(index)
    assert "animals.md" not in paths(index, "cat")
    check_vectors(folder)


def test_equal_passages_of_a_file_keep_no_orphans(folder: Path, opened: Callable[..., FolderIndex]) -> None:
    write(folder / "animals.md", "# A\ntwin\n\n# A\ntwin\n\n# B\nx\n")
    index = opened(WordEmbedder())
    write(folder / "animals.md", "# A\ntwin\n")
    filled(index)
    check_vectors(folder)


def test_vectors_of_another_model_are_refused_by_name_or_rebuilt(
    folder: Path, opened: Callable[..., FolderIndex]
) -> None:
    opened(WordEmbedder()).close()
    with pytest.raises(StartError, match=r"model 'words@96' \(96 numbers\), not of 'other@64' \(64\)"):
        opened(WordEmbedder(64, "other"))
    with pytest.raises(StartError, match="not of 'words2@96'"):
        opened(WordEmbedder(96, "words2"))
    index = opened(WordEmbedder(64, "other"), other_embedder="rebuild")
    assert paths(index, "cat", count=1) == ["animals.md"]
    check_vectors(folder)
    assert {len(value) for (value,) in rows(folder, "SELECT value FROM vectors")} == {64}


def test_a_server_whose_model_was_replaced_meanwhile_stops_embedding(
    folder: Path, opened: Callable[..., FolderIndex]
) -> None:
    first = opened(WordEmbedder())
    opened(WordEmbedder(64, "other"), other_embedder="rebuild")
    write(folder / "new.md", "# New\ntext\n")
    filled(first)
    assert first.embedding is not None and "'other@64'" in first.embedding.state.failure
    assert paths(first, "new text", "lexical")[0] == "new.md"


def test_an_index_of_words_gets_vectors_later_and_keeps_them_without_a_model(
    folder: Path, opened: Callable[..., FolderIndex]
) -> None:
    opened(None).close()
    opened(WordEmbedder()).close()
    check_vectors(folder)
    words = opened(None)
    write(folder / "cars.md", "# Cars\nnothing else\n")
    filled(words)
    assert rows(folder, "SELECT count(*) FROM vectors") == [(2,)]
    assert paths(opened(WordEmbedder()), "cat", count=1) == ["animals.md"]
    check_vectors(folder)


def test_an_index_deleted_while_open_is_filled_again(folder: Path, opened: Callable[..., FolderIndex]) -> None:
    index = opened(WordEmbedder())
    for path in folder.parent.glob("index.db*"):
        path.unlink()
    filled(index)
    check_vectors(folder)
    assert paths(index, "cat", count=1) == ["animals.md"]


@pytest.mark.parametrize("damage", ["UPDATE vectors SET value = 'x'", "UPDATE codes SET code = x'00'"])
def test_damaged_vectors_are_an_answer_and_not_a_crash(
    folder: Path, opened: Callable[..., FolderIndex], damage: str
) -> None:
    opened(WordEmbedder()).close()
    with closing(sqlite3.connect(folder.parent / "index.db")) as connection:
        connection.execute(damage)
        connection.commit()
    index = opened(WordEmbedder())
    with pytest.raises(ToolFailure, match="damaged"):
        paths(index, "cat", "vector")
    assert paths(index, "kitten", "lexical") == ["animals.md"]


class Failing(WordEmbedder):
    """A model that fails, or returns other arrays than it should."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def embed(self, texts: Any) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (OSError("no connection"), "'words@96' failed: no connection"),
        (np.zeros((1, 95)), r"shape \(1, 95\)"),
        (np.full((3, 96), np.nan), "must be finite"),
    ],
)
def test_a_model_that_fails_is_told_and_words_are_still_searched(
    opened: Callable[..., FolderIndex], result: Any, message: str
) -> None:
    index = opened(Failing(result))
    assert index.embedding is not None and re.search(message, index.embedding.state.failure)
    assert paths(index, "kitten", "lexical") == ["animals.md"]


def test_vectors_beyond_the_limit_are_left_out_and_words_are_not(
    folder: Path, opened: Callable[..., FolderIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "BATCH_PASSAGES", 1)
    index = opened(WordEmbedder(), limits=Limits(max_vectors=2))
    assert rows(folder, "SELECT count(*) FROM codes") == [(2,)]
    assert paths(index, "kitten", "lexical") == ["animals.md"] and len(paths(index, "automobile")) >= 2


# -- kills and other writers

STOPS_INSIDE = """
import sys
sys.path[:0] = ["tests/mcp_servers"]
from word_embedder import WordEmbedder
from mcp_servers.search import embedding
from mcp_servers.search.folder_index import open_folder

folder, index, stop_at, step = sys.argv[1:]
embedding.BATCH_PASSAGES = 4
if int(stop_at) > 0:
    embedding.random.randint = lambda least, most: 0
n_calls = 0

def stopping(real):
    def call(*arguments):
        global n_calls
        n_calls += 1
        result = real(*arguments)
        if n_calls == int(stop_at):
            print("inside", flush=True)
            sys.stdin.read()
        return result
    return call

if step == "embed":
    WordEmbedder.embed = stopping(WordEmbedder.embed)
else:
    embedding._insert = stopping(embedding._insert)
opened = open_folder(folder, index=index, embedder=WordEmbedder())
opened.background.run_one(60)
opened.embedding.wait_idle(60)
opened.close()
"""


def killed_inside(folder: Path, stop_at: int, step: str) -> None:
    """Embed in a process of its own, and kill it in the middle."""
    kill_when_inside(STOPS_INSIDE, folder, folder.parent / "index.db", stop_at, step)


@pytest.mark.parametrize(("step", "stop_at", "n_kept"), [("embed", 1, 0), ("embed", 3, 8), ("insert", 6, 4)])
def test_kill_9_loses_one_batch_and_the_next_run_completes_it(
    folder: Path, opened: Callable[..., FolderIndex], step: str, stop_at: int, n_kept: int
) -> None:
    for number in range(17):
        write(folder / f"n{number}.md", f"# N\nnumber{number}\n")
        os.utime(folder / f"n{number}.md", ns=(10**18, 10**18))
    killed_inside(folder, stop_at, step)
    assert rows(folder, "SELECT count(*) FROM codes") == [(n_kept,)]
    assert rows(folder, "SELECT count(*) FROM vectors") == [(n_kept,)]
    embedder = WordEmbedder()
    index = opened(embedder)
    assert len(embedder.embedded) <= 20 - n_kept + len(TEXTS)  # files that are new may be read once more
    check_vectors(folder)
    assert paths(index, "number7", "vector", count=1) == ["n7.md"]


def test_two_processes_share_one_index_and_its_embedding(folder: Path, opened: Callable[..., FolderIndex]) -> None:
    for number in range(120):
        write(folder / f"n{number}.md", f"# N\nnumber{number} kitten\n")
    program = STOPS_INSIDE.replace("import sys\n", "import sys\nprint('begun', flush=True)\n", 1)
    arguments = [sys.executable, "-c", program, str(folder), str(folder.parent / "index.db"), "-1", "embed"]
    children = [subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait(WAIT_S) for child in children] == [0, 0]
    check_vectors(folder)
    assert rows(folder, "SELECT count(*) FROM vectors") == [(123,)]
    index = opened(WordEmbedder())
    assert paths(index, "number77", "vector", count=1) == ["n77.md"]
