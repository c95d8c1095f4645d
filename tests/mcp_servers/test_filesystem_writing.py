"""Changing files through the filesystem server: complete or not at all, nothing lost unasked."""

from __future__ import annotations

import os
import re
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
        assert await ask("search_files", pattern="a") == (
            "no file or folder has such a name; search_text looks into the files",
            False,
        )
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


@pytest.mark.parametrize("name", [".git", ".GIT", ".Git", "sub/.git", ".git.", ".git ", "GIT~1", ".g\u200cit"])
async def test_nothing_is_written_moved_or_deleted_in_a_git_folder(name: str, tmp_path: Path) -> None:
    """Whoever writes in a `.git` decides what programs git runs there."""
    folder = tmp_path / name
    (folder / "hooks").mkdir(parents=True)
    (folder / "config").write_text("[core]\n", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "planted").write_text("#!/bin/sh\n", encoding="utf-8")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    calls: list[tuple[str, dict[str, object]]] = [
        ("write_file", {"path": f"{name}/config", "text": "x", "overwrite": True}),
        ("write_file", {"path": f"{name}/config", "text": "x", "append": True}),
        ("write_file", {"path": f"{name}/hooks/pre-commit", "text": "x"}),
        ("edit_file", {"path": f"{name}/config", "old_text": "core", "new_text": "diff"}),
        ("create_directory", {"path": f"{name}/hooks/more"}),
        ("create_directory", {"path": f"other/{name}"}),
        ("write_file", {"path": f"other/{name}", "text": "gitdir: elsewhere"}),
        ("move", {"source": "planted", "destination": f"{name}/hooks/pre-commit"}),
        ("move", {"source": "other", "destination": f"other2/{name}"}),
        ("move", {"source": f"{name}/config", "destination": "config"}),
        ("move", {"source": name, "destination": "renamed"}),
        ("delete", {"path": f"{name}/config"}),
        ("delete", {"path": name}),
    ]
    async with Client(build_server(str(tmp_path), write=True)) as client:
        ask = asker(client)
        for tool, arguments in calls:
            text, is_error = await ask(tool, **arguments)
            assert is_error, (tool, arguments)
            assert "a repository's own folder .git" in text
        text, is_error = await ask("read_text_file", path=f"{name}/config")
        assert not is_error
        assert text.endswith(": 1 lines\n[core]\n")
        assert not (await ask("list_directory", path=name))[1]
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


async def test_names_that_only_begin_like_git_are_files_like_others(tmp_path: Path) -> None:
    async with Client(build_server(str(tmp_path), write=True)) as client:
        for path in (".gitignore", ".gitattributes", "git", ".github/workflow", "a.git", ".gitx"):
            await asker(client)("create_directory", path=".github")
            assert not (await asker(client)("write_file", path=path, text="x"))[1]


RESERVED = [".trash", ".trash/t/old", ".TRASH/t/old", ".trash./t/old", ".tr\u200cash/t/old"]
RESERVED += [f"{TEMPORARY_PREFIX}1", f"sub/{TEMPORARY_PREFIX}1", ".MCP-tmp-1", f"{TEMPORARY_PREFIX}d/inside"]


def with_reserved_names(root: Path) -> Path:
    """A folder with a trash, files half written, and names that only look like these."""
    for path in ("a.md", "sub/b.md", "sub/.trash/mine.md", ".trashy/c.md", "x.mcp-tmp-1", *RESERVED):
        if path != ".trash":
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("needle\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("name", RESERVED)
async def test_no_tool_takes_a_reserved_name(name: str, tmp_path: Path) -> None:
    root = with_reserved_names(tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}
    calls: list[tuple[str, dict[str, object]]] = [
        ("list_directory", {"path": name}),
        ("tree", {"path": name}),
        ("read_text_file", {"path": name}),
        ("file_info", {"path": name}),
        ("search_files", {"pattern": "*", "path": name}),
        ("search_text", {"text": "needle", "path": name}),
        ("write_file", {"path": name, "text": "x"}),
        ("write_file", {"path": name, "text": "x", "overwrite": True}),
        ("write_file", {"path": name, "text": "x", "append": True}),
        ("write_file", {"path": f"{name}/new", "text": "x"}),
        ("edit_file", {"path": name, "old_text": "needle", "new_text": "x"}),
        ("create_directory", {"path": f"{name}/new"}),
        ("move", {"source": "a.md", "destination": f"{name}/a.md"}),
        ("move", {"source": "a.md", "destination": name}),
        ("delete", {"path": name}),
    ]
    if not name.startswith(".trash/"):
        calls.append(("move", {"source": name, "destination": "taken"}))
    async with Client(build_server(str(root), write=True)) as client:
        for tool, arguments in calls:
            text, is_error = await asker(client)(tool, **arguments)
            assert is_error, (tool, arguments)
            assert "is the server's own" in text
    assert {path: path.is_file() and path.read_bytes() for path in root.rglob("*")} == before


async def test_no_tool_shows_a_reserved_name(tmp_path: Path) -> None:
    async with Client(build_server(str(with_reserved_names(tmp_path)), write=True)) as client:
        ask = asker(client)
        seen = [
            await ask("list_directory"),
            await ask("list_directory", path="sub"),
            await ask("tree", depth=9),
            await ask("search_files", pattern="*"),
            await ask("search_text", text="needle", ignored=True),
            await ask("read_text_file", path=".trasj"),
            await ask("read_text_file", path=TEMPORARY_PREFIX[:-1]),
        ]
        for text, _ in seen:
            others = re.sub(r"sub/\.trash\S*|\.trashy\S*|x\.mcp-tmp-1|'\.trasj'|'\.mcp-tmp'", "", text)
            assert ".tr" not in others.casefold()
            assert TEMPORARY_PREFIX not in others.casefold()
        assert "sub/.trash/mine.md" in seen[2][0]  # only the one in the root is the server's
        assert ".trashy/c.md" in seen[2][0]
        assert "x.mcp-tmp-1" in seen[2][0]
        assert "entries: 4" in (await ask("file_info", path="."))[0]


async def test_a_folder_that_is_called_trash_elsewhere_can_be_deleted_and_moved_back(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".trash").mkdir(parents=True)
    (tmp_path / "sub" / ".trash" / "a").touch()
    async with Client(build_server(str(tmp_path), write=True)) as client:
        text, _ = await asker(client)("delete", path="sub/.trash")
        assert not (await asker(client)("move", source=text.split("'")[1], destination="back"))[1]
    assert (tmp_path / "back" / "a").exists()
