"""The search server: what is found, shown and read, how it follows the folder, what it says of its limits."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.server.lowlevel.server import Server
from server_harness import REPOSITORY, ask_once, asker

from mcp_servers.failures import StartError
from mcp_servers.filesystem.root import Root, lstat
from mcp_servers.search.documents import Document, DocumentReader
from mcp_servers.search.policy import Limits
from mcp_servers.search.refreshing import Refreshed, Refresher, Report
from mcp_servers.search.server import build_server

pytestmark = pytest.mark.anyio

# Long enough ago for any clock to tell a later change: 2001-09-09.
LONG_AGO_NS = 10**18
SECRET = "quagga"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def serve(folder: Path, **options: Any) -> Server[Any]:
    return build_server(str(folder), index=str(folder.parent / "index.db"), **options)


async def found(folder: Path, query: str, **arguments: Any) -> dict[str, Any]:
    """Return the structured result of one search on a new server."""
    async with Client(serve(folder)) as client:
        result = await client.call_tool("search", {"query": query, **arguments})
        assert result.structured_content is not None
        return result.structured_content


async def found_paths(folder: Path, query: str, **arguments: Any) -> list[str]:
    return [hit["path"] for hit in (await found(folder, query, **arguments))["hits"]]


async def test_a_hit_has_path_lines_heading_and_numbered_snippet(folder: Path) -> None:
    write(folder / "docs" / "guide.md", "# Guide\nintro\n\n## Setup\nfirst\nInstall the Frobnicator now\nlast\n")
    text, is_error = await ask_once(serve(folder), "search", query="frobnicator")
    assert not is_error
    head, place, *lines, index = text.split("\n")
    assert head == "1 passage in 1 file has all words."
    assert re.fullmatch(r"docs/guide\.md:4-7 \(score \d+\.\d\d\) Guide > Setup", place)
    assert lines == ["  6: Install the Frobnicator now", "  7: last"]
    assert re.fullmatch(r"Index: refreshed \d+ s ago\.", index)


async def test_text_code_path_heading_and_extension_are_searched(folder: Path) -> None:
    write(folder / "src" / "userStore.py", "class UserStore:\n    def load_all(self): ...\n")
    write(folder / "notes.md", "# Storage\nplain words\n")
    write(folder / "empty.cfg", "")
    async with Client(serve(folder)) as client:
        ask = asker(client)
        for query in ("UserStore", "user_store load", "loadAll", "src", "user store py"):
            assert "src/userStore.py" in (await ask("search", query=query))[0], query
        assert "notes.md" in (await ask("search", query="storage plain"))[0]
        assert "(it has no text)" in (await ask("search", query="empty cfg"))[0]


async def test_the_definition_of_a_name_comes_before_its_uses(folder: Path) -> None:
    for number in range(5):
        write(folder / f"use{number}.py", "from a import wanted_name\n" + "wanted_name()\n" * 3)
    write(folder / "z.py", "def wanted_name():\n    pass\n" + "other()\n" * 10)
    assert (await found_paths(folder, "wanted_name"))[0] == "z.py"


async def test_all_words_come_first_and_else_some_of_them_which_is_said(folder: Path) -> None:
    write(folder / "a.txt", "red green\n")
    write(folder / "b.txt", "red blue\n")
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert (await ask("search", query="red green"))[0].startswith(
            "1 passage in 1 file has all words.\na.txt:1-1"
        )
        text, _ = await ask("search", query="green blue")
        assert text.startswith("No passage has all words. 2 passages in 2 files have some of them.")
        text, _ = await ask("search", query="green blue -red")
        assert text.startswith("Nothing found. Try other or fewer words.\nIndex: ")
        text, _ = await ask("search", query="red " + " ".join(f"w{n}" for n in range(40)))
        assert "(9 words beyond the first 32 were not used.)" in text


@pytest.mark.parametrize(
    "query", ['"', '" OR 1', "NEAR(a b, 2)", "body:x*", "^a", "{a b}: c", "a AND", "(", "a\0b", "'"]
)
async def test_full_text_syntax_in_a_query_is_words_or_an_answer(folder: Path, query: str) -> None:
    write(folder / "a.txt", "or near a b body x c and\n")
    text, is_error = await ask_once(serve(folder), "search", query=query)
    assert not is_error or "no word to find" in text
    assert "fts5" not in text


async def test_a_search_can_be_narrowed_to_a_folder_a_file_or_an_extension(folder: Path) -> None:
    for path in ("a/x.py", "a/x.md", "ab/x.py", "x.py", "a%b/x.py"):
        write(folder / path, "word\n")
    assert sorted(await found_paths(folder, "word", path="a")) == ["a/x.md", "a/x.py"]
    assert await found_paths(folder, "word", path="./ab/") == ["ab/x.py"]
    assert await found_paths(folder, "word", path="a/x.md") == ["a/x.md"]
    assert await found_paths(folder, "word", path="a%b") == ["a%b/x.py"]
    assert len(await found_paths(folder, "word", path=".")) == 5
    assert await found_paths(folder, "word", kind="*.md") == ["a/x.md"]


async def test_a_wrong_path_or_extension_is_answered_with_the_nearest(folder: Path) -> None:
    write(folder / "deep" / "child.py", "word\n")
    async with Client(serve(folder)) as client:
        ask = asker(client)
        text, is_error = await ask("search", query="word", path="child.py")
        assert is_error and text == "No indexed file is 'child.py' or below it. Did you mean 'deep/child.py'?"
        text, is_error = await ask("search", query="word", path="elsewhere")
        assert is_error and text.endswith("Use path='' to search everywhere.")
        text, is_error = await ask("search", query="word", kind="pyy")
        assert is_error and text == "No indexed file has the extension 'pyy'. Did you mean 'py'?"
        text, is_error = await ask("search", query="word", path="../x")
        assert is_error and "'..' is not allowed" in text
        text, is_error = await ask("read_passage", path="deep/chld.py")
        assert is_error and text == "'deep/chld.py' is not in the index. Did you mean 'deep/child.py'?"


async def test_hits_are_paged_and_one_file_does_not_fill_the_page(folder: Path) -> None:
    write(folder / "long.txt", "".join("word\n\n" for _ in range(400)))
    for number in range(12):
        write(folder / f"{number:02}.txt", "word " + "other " * 50)
    seen: list[tuple[str, int]] = []
    async with Client(serve(folder)) as client:
        for page in (1, 2):
            result = await client.call_tool("search", {"query": "word", "page": page})
            assert result.structured_content is not None
            seen += [(hit["path"], hit["first_line"]) for hit in result.structured_content["hits"]]
            assert result.structured_content["has_more"] is (page == 1)
        text, _ = await asker(client)("search", query="word")
        assert text.split("\n")[-2] == "(more with page=2)"
        text, is_error = await asker(client)("search", query="word", page=9)
        assert not is_error and "Page 9 is past the end." in text
        of_one, _ = await asker(client)("search", query="word", path="long.txt")
        assert of_one.count("long.txt:") == 10 and "(more with page=2)" in of_one
        assert "more with path=FILE" in text and "more with path=FILE" not in of_one
    assert len(seen) == len(set(seen)) == 15
    assert sum(path == "long.txt" for path, _ in seen) == 3


async def test_a_page_of_hits_is_small_whatever_the_files_are(folder: Path) -> None:
    name = "/".join(["d" * 90] * 9) + "/" + "\u202e" * 40
    for number in range(12):
        write(folder / f"{name}{number}.md", "# " + "word " * 2_000 + "\n" + ("word " * 2_000 + "\n") * 40)
    text, is_error = await ask_once(serve(folder), "search", query="word")
    assert not is_error and text.count("word") > 100
    assert len(text.encode()) <= 32 * 1024


async def test_a_match_far_into_a_long_line_is_shown(folder: Path) -> None:
    write(folder / "min.js", "x;" * 3_000 + " needle " + "y;" * 3_000)
    (hit,) = (await found(folder, "needle"))["hits"]
    assert (hit["first_line"], hit["last_line"]) == (1, 1)
    assert "needle" in hit["lines"][0]["text"] and len(hit["lines"][0]["text"]) < 200


async def test_hidden_characters_neither_hide_a_word_nor_are_shown(folder: Path) -> None:
    tags = "".join(chr(0xE0000 + ord(char)) for char in "obey")
    write(folder / "a.md", f"# Ti\u200btle\u202e\nse\u200bcret{tags} \x1b[2Jword\n")
    async with Client(serve(folder)) as client:
        text, _ = await asker(client)("search", query="se\u200bcret title")
        assert text.split("\n")[1].endswith(" Title") and "  2: secret  [2Jword" in text
        text, _ = await asker(client)("read_passage", path="a.md")
        assert text == "a.md: 2 lines\n# Title\nsecret  [2Jword"


async def test_a_passage_is_read_from_the_live_file(folder: Path) -> None:
    write(folder / "n.txt", "".join(f"line {n}\n" for n in range(1, 101)))
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert not (await ask("search", query="line"))[1]
        write(folder / "n.txt", "".join(f"new {n}\n" for n in range(1, 91)))
        text, _ = await ask("read_passage", path="n.txt", first_line=11, lines=2)
        assert text == "n.txt: 90 lines, here 11 to 12; go on with first_line=13\nnew 11\nnew 12"
        text, _ = await ask("read_passage", path="n.txt", first_line=89)
        assert text == "n.txt: 90 lines, here 89 to 90\nnew 89\nnew 90"
        text, is_error = await ask("read_passage", path="n.txt", first_line=91)
        assert is_error and text == "'n.txt' has 90 lines; first_line 91 is past the end."
        text, is_error = await ask("read_passage", path="n.txt", page=1)
        assert is_error and "only a PDF has" in text


async def test_a_read_is_capped_and_says_where_to_go_on(folder: Path) -> None:
    write(folder / "wide.txt", ("x" * 999 + "\n") * 10)
    write(folder / "one.txt", "\u00e9" * 10_000)
    async with Client(serve(folder, limits=Limits(max_answer_bytes=4_001))) as client:
        text, _ = await asker(client)("read_passage", path="wide.txt")
        assert text.startswith("wide.txt: 10 lines, here 1 to 4; go on with first_line=5\n") and len(text) < 4_100
        text, _ = await asker(client)("read_passage", path="one.txt")
        assert "the line is too long and was cut" in text and len(text) < 2_100


@pytest.mark.parametrize(
    "path", ["link.txt", "linked/x.txt", ".env", ".git/config", "skip/x.txt", "../outside.txt"]
)
async def test_links_hidden_and_excluded_files_are_neither_found_nor_read(folder: Path, path: str) -> None:
    write(folder.parent / "outside" / "x.txt", SECRET)
    write(folder.parent / "outside.txt", SECRET)
    for inside in (".env", ".git/config", "node_modules/x.txt", "__pycache__/x.txt", "skip/x.txt", ".venv/x.txt"):
        write(folder / inside, SECRET)
    (folder / "link.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "linked").symlink_to(folder.parent / "outside")
    os.mkfifo(folder / "fifo")
    async with Client(serve(folder, exclude=["skip"])) as client:
        ask = asker(client)
        assert (await ask("search", query=SECRET))[0].startswith("Nothing found.")
        text, is_error = await ask("read_passage", path=path)
        assert is_error and SECRET not in text and str(folder) not in text
        status, _ = await ask("index_status")
        assert "left out: 2 links" in status and "left out: 1 devices, pipes and sockets" in status
        assert "left out: 5 hidden files and folders" in status and "left out: 1 files and folders that" in status


async def test_an_indexed_file_that_becomes_a_link_is_not_read(folder: Path) -> None:
    write(folder / "a.txt", "word\n")
    write(folder.parent / "outside.txt", SECRET)
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert "a.txt" in (await ask("search", query="word"))[0]
        (folder / "a.txt").unlink()
        (folder / "a.txt").symlink_to(folder.parent / "outside.txt")
        text, is_error = await ask("read_passage", path="a.txt")
        assert is_error and text == "'a.txt' is a link; links are not followed."
        assert "changed since it was indexed" in (await ask("search", query="word"))[0]
        assert "New or changed files read: 0. Files taken out of the index: 1." in (await ask("refresh"))[0]
        assert (await ask("search", query="word"))[0].startswith("Nothing found.")


async def test_only_included_files_are_indexed(folder: Path) -> None:
    for path in ("a.md", "b.txt", "docs/c.txt", "docs/old/d.md"):
        write(folder / path, "word\n")
    async with Client(serve(folder, include=["*.md", "docs"], exclude=["docs/old"])) as client:
        result = await client.call_tool("search", {"query": "word"})
        assert result.structured_content is not None
        assert sorted(hit["path"] for hit in result.structured_content["hits"]) == ["a.md", "docs/c.txt"]


async def test_a_hit_says_that_its_file_changed_or_is_gone_until_a_refresh(folder: Path) -> None:
    write(folder / "a.txt", "first\n")
    write(folder / "deep" / "b.txt", "first\n")
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert "since it was indexed" not in (await ask("search", query="first"))[0]
        write(folder / "a.txt", "second!\n")
        (folder / "deep" / "b.txt").unlink()
        (folder / "deep").rmdir()
        text, _ = await ask("search", query="first")
        assert "(changed since it was indexed; call refresh)" in text
        assert "(deleted since it was indexed; call refresh)" in text
        assert (await ask("refresh"))[0].startswith(
            "New or changed files read: 1. Files taken out of the index: 1. Index: refreshed"
        )
        assert (await ask("search", query="first"))[0].startswith("Nothing found.")
        assert "a.txt:1-1" in (await ask("search", query="second"))[0]


async def test_only_new_and_changed_files_are_read_again(folder: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        write(folder / name, "word\n")
    async with Client(serve(folder)) as client:
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 3.")
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 0.")
    write(folder / "b.txt", "another word\n")
    write(folder / "d.txt", "word\n")
    async with Client(serve(folder)) as client:  # a new process would do the same
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 2.")


async def test_a_file_changed_moments_before_it_was_read_is_read_once_more(folder: Path) -> None:
    write(folder / "old.txt", "word\n")
    (folder / "new.txt").write_text("word\n", encoding="utf-8")
    async with Client(serve(folder)) as client:
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 2.")
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 1.")


async def test_a_replaced_file_of_the_same_size_and_time_is_read_again(folder: Path) -> None:
    write(folder / "a.txt", "first\n")
    async with Client(serve(folder)) as client:
        await asker(client)("refresh")
        write(folder / "b", "other\n")
        (folder / "b").rename(folder / "a.txt")
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 1.")
        assert "a.txt" in (await asker(client)("search", query="other"))[0]


@pytest.mark.parametrize(
    ("limits", "query", "said"),
    [
        (Limits(max_files=2), "c", "left out: 2 files beyond the first 2"),
        (Limits(max_walked=2), "c", "left out: 1 folders with entries beyond the first 2"),
        (Limits(max_text_file_bytes=50), "big", "big.txt: too large: it has 899 bytes; at most 50 are read"),
        (Limits(max_total_bytes=3), "word c", "c.txt: left out: the index holds at most 3 bytes of text"),
        (Limits(max_passages=1), "tail", "big.txt: part: only the first 1 passages"),
    ],
)
async def test_each_exceeded_cap_is_told(folder: Path, limits: Limits, query: str, said: str) -> None:
    for name in ("a.txt", "c.txt", "d.txt"):
        write(folder / name, "word\n")
    write(folder / "big.txt", "head\n\n" + "line\n\n" * 148 + "tail\n")
    async with Client(serve(folder, limits=limits)) as client:
        assert "Index: refreshed" in (await asker(client)("search", query=query))[0]
        assert said in (await asker(client)("index_status"))[0].split("\n")


async def test_files_with_a_problem_are_counted_with_every_answer_and_listed_in_pages(folder: Path) -> None:
    for number in range(30):
        write(folder / f"{number:02}.txt", "long text\n" * 10)
    write(folder / "ok.txt", "text\n")
    async with Client(serve(folder, limits=Limits(max_text_file_bytes=50))) as client:
        text, _ = await asker(client)("search", query="text")
        assert text.endswith("30 files not or partly indexed; see index_status.")
        first, _ = await asker(client)("index_status")
        assert "24.txt: too large" in first and "25.txt" not in first and first.endswith("(more with page=2)")
        second, _ = await asker(client)("index_status", page=2)
        assert "25.txt: too large" in second and "24.txt" not in second and "more with" not in second


async def test_names_and_depths_that_cannot_be_addressed_are_counted(folder: Path) -> None:
    write(folder / os.fsdecode(b"bad\xff.txt"), "word\n")
    write(folder / "two\nlines.txt", "word\n")
    write(folder / "/".join(["d"] * 66) / "deep.txt", "word\n")
    write(folder / "ok.txt", "word\n")
    async with Client(serve(folder)) as client:
        assert "1 passage in 1 file has all words." in (await asker(client)("search", query="word"))[0]
        status, _ = await asker(client)("index_status")
        assert "left out: 2 names that are not UTF-8" in status and "left out: 1 folders below 64 levels" in status


async def test_what_the_disk_refuses_does_not_stop_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        write(folder / name, "word\n")
    real_file = Root.file

    def refusing_lstat(parent: int, name: str) -> os.stat_result | None:
        if name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return lstat(parent, name)

    @contextmanager
    def failing_file(self: Root, parts: tuple[str, ...]) -> Iterator[Any]:
        with real_file(self, parts) as file:
            yield _Unreadable(file) if parts == ("b.txt",) else file

    monkeypatch.setattr("mcp_servers.search.walking.lstat", refusing_lstat)
    monkeypatch.setattr(Root, "file", failing_file)
    async with Client(serve(folder)) as client:
        assert "1 passage in 1 file" in (await asker(client)("search", query="word"))[0]
        status, _ = await asker(client)("index_status")
        assert "left out: 1 files and folders that cannot be opened" in status
        assert "b.txt: failed: 'b.txt' cannot be read: input/output error." in status


class _Unreadable:
    """A file on a broken disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.fileno = file.fileno

    def read(self, count: int) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_files_and_folders_do_not_stop_the_rest(folder: Path) -> None:
    write(folder / "a" / "x.txt", "word\n")
    write(folder / "b.txt", "word\n")
    write(folder / "c.txt", "word\n")
    (folder / "a").chmod(0)
    (folder / "b.txt").chmod(0)
    async with Client(serve(folder)) as client:
        assert "c.txt" in (await asker(client)("search", query="word"))[0]
        status, _ = await asker(client)("index_status")
        assert "left out: 1 files and folders that cannot be opened" in status
        assert "b.txt: failed: 'b.txt': permission denied." in status
        (folder / "a").chmod(0o755)
        (folder / "b.txt").chmod(0o644)
        assert (await asker(client)("refresh"))[0].startswith("New or changed files read: 2.")


async def test_a_file_that_vanishes_before_it_is_read_does_not_stop_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "a.txt", "word\n")
    write(folder / "b.txt", "word\n")
    real = DocumentReader.read

    def read(self: DocumentReader, parts: tuple[str, ...], *arguments: Any) -> Document:
        (folder / "a.txt").unlink(missing_ok=True)
        return real(self, parts, *arguments)

    monkeypatch.setattr(DocumentReader, "read", read)
    async with Client(serve(folder)) as client:
        assert "1 passage in 1 file" in (await asker(client)("search", query="word"))[0]
        assert "a.txt: failed: 'a.txt' does not exist in '.'." in (await asker(client)("index_status"))[0]
        assert "Files taken out of the index: 1." in (await asker(client)("refresh"))[0]


async def test_binary_files_and_other_encodings_are_found_by_name_only(folder: Path) -> None:
    write(folder / "image.png", b"\x89PNG\r\n\0\0word")
    write(folder / "small.bin", bytes(range(128, 256)))
    write(folder / "large.so", b"\x7fELF\0" + b"x" * 5_000_000)
    write(folder / "wide.txt", "\ufeffword in sixteen bits".encode("utf-16-le"))
    write(folder / "mark.txt", b"\xef\xbb\xbfmarked word")
    async with Client(serve(folder)) as client:
        text, _ = await asker(client)("search", query="word")
        assert "wide.txt:1-1" in text and "mark.txt:1-1" in text and "image" not in text
        assert "see index_status" not in text
        text, _ = await asker(client)("search", query="image")
        assert "image.png (score" in text and "(only its name is indexed: it is a binary file)" in text
        text, is_error = await asker(client)("read_passage", path="small.bin")
        assert is_error and "'small.bin' cannot be read: it is a binary file" in text
        assert "3 binary files, of which only the name is indexed" in (await asker(client)("index_status"))[0]


async def test_extensions_are_shown_without_hidden_characters(folder: Path) -> None:
    write(folder / "a.x\u202ey", "word\n")
    async with Client(serve(folder)) as client:
        assert not (await asker(client)("refresh"))[1]
        assert "kinds: xy 1" in (await asker(client)("index_status"))[0].split("\n")
        for kind in ("xy", "x\u202ey"):
            assert not (await asker(client)("search", query="word", kind=kind))[1]
        text, is_error = await asker(client)("search", query="word", kind="zzz")
        assert is_error and "\u202e" not in text


async def test_an_empty_folder_is_an_index_of_nothing(folder: Path) -> None:
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert (await ask("search", query="word"))[0].startswith("Nothing found.")
        assert "\n0 files, 0 passages, 0 bytes of text\n" in (await ask("index_status"))[0]
        text, is_error = await ask("search", query="word", kind="md")
        assert is_error and "There are: none." in text


def refreshing_with(monkeypatch: pytest.MonkeyPatch, refresh: Callable[[Report], Refreshed]) -> None:
    monkeypatch.setattr(Refresher, "refresh", lambda self, report: refresh(report))


async def test_a_search_waits_for_the_first_refresh_and_reports_its_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = threading.Event()
    real = Refresher.refresh

    def refresh(self: Refresher, report: Report) -> Refreshed:
        report(1, 3)
        went_on.wait()
        return real(self, report)

    seen: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))
        went_on.set()

    monkeypatch.setattr(Refresher, "refresh", refresh)
    write(folder / "a.txt", "word\n")
    async with Client(serve(folder)) as client:
        result = await client.call_tool("search", {"query": "word"}, progress_callback=on_progress)
    assert seen[0] == (1, 3) and [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert result.structured_content is not None and result.structured_content["total_passages"] == 1


async def test_what_takes_too_long_goes_on_in_the_background_and_every_answer_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    real = Refresher.refresh

    def refresh(self: Refresher, report: Report) -> Refreshed:
        report(2, 7)
        began.set()
        may_end.wait()
        return real(self, report)

    monkeypatch.setattr(Refresher, "refresh", refresh)
    write(folder / "a.txt", "word\n")
    async with Client(serve(folder, limits=Limits(wait_s=0, refresh_s=0))) as client:
        ask = asker(client)
        try:
            assert not (await ask("index_status"))[1]
            await anyio.to_thread.run_sync(began.wait)
            text, _ = await ask("search", query="word")
            assert text.endswith("Index: being refreshed (2 of 7 files read); the answer may be incomplete.")
            text, is_error = await ask("search", query="word", path="a.txt")
            assert is_error and text.endswith("The index is being refreshed; it may come.")
            text, _ = await ask("refresh")
            assert text.startswith(
                "The refresh goes on in the background. Index: being refreshed (2 of 7 files read)"
            )
        finally:
            may_end.set()
    async with Client(serve(folder)) as client:
        assert "a.txt" in (await asker(client)("search", query="word"))[0]


async def test_a_refresh_ends_when_its_call_is_cancelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = threading.Event()

    def refresh(report: Report) -> Refreshed:
        try:
            for done in range(10**9):
                report(done, 10**9)
        finally:
            has_ended.set()
        return Refreshed()

    refreshing_with(monkeypatch, refresh)
    async with Client(serve(folder)) as client:
        with anyio.CancelScope() as scope:

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                scope.cancel()

            await client.call_tool("refresh", {}, progress_callback=on_progress)
        assert scope.cancelled_caught
        await anyio.to_thread.run_sync(has_ended.wait)


async def test_a_refresh_ends_when_its_server_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, has_ended = threading.Event(), threading.Event()

    def refresh(report: Report) -> Refreshed:
        has_begun.set()
        try:
            while True:
                report(1, 2)
        finally:
            has_ended.set()

    refreshing_with(monkeypatch, refresh)
    async with Client(serve(folder)) as client:
        await client.call_tool("index_status", {})
        await anyio.to_thread.run_sync(has_begun.wait)
    assert has_ended.is_set()


async def test_a_refresh_asked_for_during_another_comes_after_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running one may have passed a file that changed since."""
    began, may_end = threading.Event(), threading.Event()
    real = Refresher.refresh
    n_begun = 0

    def refresh(self: Refresher, report: Report) -> Refreshed:
        nonlocal n_begun
        n_begun += 1
        done = real(self, report)
        began.set()
        may_end.wait()
        return done

    monkeypatch.setattr(Refresher, "refresh", refresh)
    async with Client(serve(folder)) as client, anyio.create_task_group() as calls:
        ask = asker(client)
        await ask("index_status")
        await anyio.to_thread.run_sync(began.wait)
        write(folder / "late.txt", "word\n")

        async def refresh_now() -> None:
            assert (await ask("refresh"))[0].startswith("New or changed files read: 1.")

        calls.start_soon(refresh_now)
        calls.start_soon(anyio.to_thread.run_sync, may_end.set)
    assert n_begun == 2


async def test_a_failed_refresh_is_told_and_can_be_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Refresher.refresh
    is_full = True

    def refresh(self: Refresher, report: Report) -> Refreshed:
        if is_full:
            raise OSError(28, "No space left on device", "/secret/place")
        return real(self, report)

    monkeypatch.setattr(Refresher, "refresh", refresh)
    async with Client(serve(folder)) as client:
        ask = asker(client)
        text, _ = await ask("search", query="word")
        assert text.endswith("Index: not built yet. The last refresh failed: no space left on device.")
        text, is_error = await ask("refresh")
        assert is_error and text == "The index was not refreshed: no space left on device."
        is_full = False
        assert not (await ask("refresh"))[1]
        assert "failed" not in (await ask("search", query="word"))[0]


async def test_the_tools_and_their_hints(folder: Path) -> None:
    async with Client(serve(folder)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["search", "read_passage", "index_status", "refresh"]
        for name, tool in tools.items():
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint is (name != "refresh")
            assert tool.annotations.destructive_hint is False and tool.annotations.open_world_hint is False
        assert client.server_info is not None and client.server_info.name == "agentkit-search"


async def test_search_over_stdio_with_its_command_line(folder: Path) -> None:
    for path in ("a.md", "b.txt", "old/c.md"):
        write(folder / path, "needle\n")
    arguments = [str(folder), "--index", str(folder.parent / "i.db"), "--include", "*.md", "--exclude", "old", "x"]
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_servers.search", *arguments], cwd=REPOSITORY
    )
    async with Client(target) as client:
        text, is_error = await asker(client)("search", query="needle")
        assert not is_error and text.startswith("1 passage in 1 file has all words.\na.md:1-1")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"include": [""]}, "--include and --exclude"),
        ({"exclude": ["x" * 300]}, "--include and --exclude"),
        ({"index": "/no/such/folder/i.db"}, "no such file"),
        ({"index": "/dev/null"}, "not a regular file"),
    ],
)
def test_a_wrong_start_is_explained(folder: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(StartError, match=f"(?i){problem}"):
        build_server(str(folder), **{"index": str(folder.parent / "i.db"), **options})


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot open the folder"):
        build_server(str(tmp_path / "none"), index=str(tmp_path / "i.db"))
