"""Changing files through the filesystem server: complete or not at all, nothing lost unasked."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mcp import Client
from server_harness import ask_once, asker

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem import writing
from mcp_servers.filesystem.policy import TEMPORARY_PREFIX, Limits
from mcp_servers.filesystem.root import Root
from mcp_servers.filesystem.server import build_server

pytestmark = pytest.mark.anyio


def leftovers(root: Path) -> list[str]:
    return [name for _, _, names in os.walk(root) for name in names if name.startswith(TEMPORARY_PREFIX)]


async def test_a_file_is_created_once_and_replaced_only_when_asked(tmp_path: Path) -> None:
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        assert await ask("write_file", path="a.md", text="one\n") == ("created with 4 bytes: a.md", False)
        text, is_error = await ask("write_file", path="a.md", text="two")
        assert is_error and "overwrite=true" in text
        (tmp_path / "a.md").chmod(0o640)
        assert not (await ask("write_file", path="a.md", text="two", overwrite=True))[1]
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "two"
    assert (tmp_path / "a.md").stat().st_mode & 0o777 == 0o640
    assert leftovers(tmp_path) == []


async def test_a_text_is_added_to_the_end_on_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("- one", encoding="utf-8")
    (tmp_path / "list.txt").chmod(0o640)
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        said = await ask("write_file", path="list.txt", text="- zwei ä\n", append=True)
        assert said == ("appended 10 bytes: list.txt", False)
        await ask("write_file", path="list.txt", text="- three\n", append=True)
        assert await ask("write_file", path="new.txt", text="a\n", append=True) == (
            "created with 2 bytes: new.txt",
            False,
        )
        text, is_error = await ask("write_file", path="new.txt", text="b", append=True, overwrite=True)
        assert is_error and "exclude each other" in text
    assert (tmp_path / "list.txt").read_text(encoding="utf-8") == "- one\n- zwei ä\n- three\n"
    assert (tmp_path / "list.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new.txt").read_text(encoding="utf-8") == "a\n"
    assert leftovers(tmp_path) == []


async def test_an_edit_gives_a_diff(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x\nold\ny\n", encoding="utf-8")
    server = build_server(str(tmp_path), write=True)
    text, _ = await ask_once(server, "edit_file", path="a", old_text="old", new_text="new")
    assert text == "edited in 1 place: a\n@@ -2,1 +2,1 @@\n-old\n+new"
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x\nnew\ny\n"


async def test_a_refused_edit_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        assert (await ask("edit_file", path="a", old_text="aa", new_text="b", replace_all=True))[1]
        assert "UTF-8" in (await ask("edit_file", path="latin1", old_text="caf", new_text="x"))[0]
    assert (tmp_path / "a").read_bytes() == b"aaa"
    assert (tmp_path / "latin1").read_bytes() == b"caf\xe9"


async def test_line_ends_survive_an_edit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\ntwo\r\n")
    await ask_once(build_server(str(tmp_path), write=True), "edit_file", path="a", old_text="one", new_text="1")
    assert (tmp_path / "a").read_bytes() == b"1\r\ntwo\r\n"


async def test_a_file_with_a_second_hard_link_is_not_changed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    root.mkdir()
    outside.write_text("shared", encoding="utf-8")
    os.link(outside, root / "inside")
    async with Client(build_server(str(root), write=True)) as client:
        for tool, arguments in (
            ("write_file", {"text": "x", "overwrite": True}),
            ("edit_file", {"old_text": "shared", "new_text": "x"}),
        ):
            text, is_error = await asker(client)(tool, path="inside", **arguments)
            assert is_error and "hard links" in text
    assert outside.read_text(encoding="utf-8") == "shared"


async def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """A file-size limit makes the kernel refuse the write half way, as a full disk does."""
    (tmp_path / "a").write_text("old", encoding="utf-8")
    root, limits = Root(str(tmp_path)), Limits()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        for name in ("a", "new"):
            with pytest.raises(ToolFailure, match="Nothing was written"):
                writing.write_file(root, (name,), "x" * 10_000, True, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    root, limits = Root(str(tmp_path)), Limits()

    def create(text: str) -> str | None:
        try:
            writing.write_file(root, ("a",), text, False, limits)
        except ToolFailure:
            return None
        return text

    with ThreadPoolExecutor(8) as pool:
        winners = [text for text in pool.map(create, (str(n) * 1_000 for n in range(8))) if text]
    assert [(tmp_path / "a").read_text(encoding="utf-8")] == winners
    assert leftovers(tmp_path) == []


def test_of_many_overwriters_one_whole_text_stays(tmp_path: Path) -> None:
    root, limits = Root(str(tmp_path)), Limits()
    texts = [str(n) * 100_000 for n in range(8)]
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: writing.write_file(root, ("a",), text, True, limits), texts))
    assert (tmp_path / "a").read_text(encoding="utf-8") in texts
    assert leftovers(tmp_path) == []


async def test_folders_are_created_with_those_above(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        assert await ask("create_directory", path="a/b/c") == ("created: a/b/c", False)
        assert await ask("create_directory", path="a/b/c") == ("exists already: a/b/c", False)
        text, is_error = await ask("create_directory", path="file/b")
        assert is_error and "is a file, not a folder" in text


async def test_a_move_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a", encoding="utf-8")
    (tmp_path / "b").write_text("b", encoding="utf-8")
    (tmp_path / "d" / "e").mkdir(parents=True)
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        for source, destination in (("a", "b"), ("a", "d"), ("d", "b"), ("d", "d/e/f"), (".", "x"), ("gone", "x")):
            assert (await ask("move", source=source, destination=destination))[1], (source, destination)
        assert sorted(os.listdir(tmp_path)) == ["a", "b", "d"]
        assert await ask("move", source="a", destination="d/e/a2") == ("moved from a: d/e/a2", False)
        assert await ask("move", source="d", destination="d2") == ("moved from d: d2", False)
    assert (tmp_path / "d2" / "e" / "a2").read_text(encoding="utf-8") == "a"


async def test_what_is_deleted_can_be_moved_back(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("kept", encoding="utf-8")
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        text, is_error = await ask("delete", path="d")
        assert not is_error and not (tmp_path / "d").exists()
        trashed = text.split("'")[1]
        assert await ask("search_files", pattern="a") == ("(empty)", False)
        assert not (await ask("move", source=trashed, destination="back"))[1]
        assert (tmp_path / "back" / "a").read_text(encoding="utf-8") == "kept"
        for target in (".", ".trash", f"{trashed}/x"):
            assert (await ask("delete", path=target))[1], target


async def test_a_trash_that_is_a_link_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "a").touch()
    os.symlink(outside, root / ".trash")
    assert (await ask_once(build_server(str(root), write=True), "delete", path="a"))[1]
    assert os.listdir(outside) == [] and (root / "a").exists()


async def test_large_texts_and_reserved_names_are_refused(tmp_path: Path) -> None:
    async with Client(build_server(str(tmp_path), write=True, limits=Limits(max_edited_bytes=100))) as client:
        ask = asker(client)
        assert (await ask("write_file", path="a", text="x" * 101))[1]
        assert (await ask("write_file", path=f"{TEMPORARY_PREFIX}1", text="x"))[1]
        assert (await ask("write_file", path="no/such/folder", text="x"))[1]
        assert not (await ask("write_file", path="a", text="x" * 90))[1]
        assert (await ask("edit_file", path="a", old_text="x", new_text="yy", replace_all=True))[1]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x" * 90
    assert os.listdir(tmp_path) == ["a"]
