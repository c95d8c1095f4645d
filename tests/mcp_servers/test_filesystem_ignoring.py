"""Text search leaves out what `.gitignore` names and says so; no link, size or race makes it read or hide more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mcp import Client
from server_harness import Ask, ask_once, asker

from mcp_servers.filesystem import ignoring
from mcp_servers.filesystem.policy import Limits
from mcp_servers.filesystem.root import lstat
from mcp_servers.filesystem.server import build_server
from mcp_servers.gitignore.rules import MAX_FILE_BYTES, MAX_RULES

pytestmark = pytest.mark.anyio

ALL_RULES = "*.txt\nbuild/\n/sub/made\n"
LEFT_OUT = "({} files or folders left out by .gitignore or as git's own; ignored=true searches them too)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of which rules leave out two files and two folders; each file holds one line with `needle`."""
    root = tmp_path / "root"
    for path in ("a.py", "a.txt", "sub/b.py", "sub/b.txt", "sub/made/c.py", "build/d.py", "build/deep/e.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("needle\n", encoding="utf-8")
    (root / ".gitignore").write_text(ALL_RULES, encoding="utf-8")
    return root


async def found(ask: Ask, **arguments: object) -> tuple[list[str], list[str]]:
    """Return the paths with a match, and the remarks below them but their number."""
    text, is_error = await ask("search_text", text="needle", **arguments)
    assert not is_error
    lines = text.split("\n")
    return [line.split(":")[0] for line in lines if "needle" in line], [
        line for line in lines if line[0] == "(" and not line.endswith(" lines)")
    ]


async def test_ignored_files_are_not_searched_unless_asked_for_and_the_answer_says_so(root: Path) -> None:
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert await found(ask) == (["a.py", "sub/b.py"], [LEFT_OUT.format(4)])
        paths, remarks = await found(ask, ignored=True)
        assert len(paths) == 7 and remarks == []
        text, _ = await ask("search_text", text="gone")
        assert text == f"no match in 3 files\n{LEFT_OUT.format(4)}"
        result = await client.call_tool("search_text", {"text": "needle"})
        assert result.structured_content is not None
        assert result.structured_content["ignored_entries"] == 4
        assert result.structured_content["unusable_ignore_files"] == 0


@pytest.mark.parametrize("is_folder", [True, False])
async def test_gits_own_folder_or_file_is_not_searched_unless_it_is_asked_for(root: Path, is_folder: bool) -> None:
    own = root / "sub" / ".git"
    place = own / "COMMIT_EDITMSG" if is_folder else own
    place.parent.mkdir(exist_ok=True)
    place.write_text("needle\n", encoding="utf-8")
    (root / ".ignore").write_text("!.git\n", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert await found(ask) == (["a.py", "sub/b.py"], [LEFT_OUT.format(5)])
        path = str(place.relative_to(root))
        assert await found(ask, path=path) == ([path], [])
        assert path in (await found(ask, ignored=True))[0]
        assert path in (await ask("tree"))[0]


async def test_rules_above_a_searched_folder_hold_in_it(root: Path) -> None:
    (root / "sub" / ".ignore").write_text("!b.txt\n", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        assert await found(asker(client), path="sub") == (["sub/b.py", "sub/b.txt"], [LEFT_OUT.format(1)])


async def test_an_ignored_folder_or_file_that_is_named_is_searched(root: Path) -> None:
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert await found(ask, path="build") == (["build/d.py"], [LEFT_OUT.format(1)])
        assert await found(ask, path="sub/made") == (["sub/made/c.py"], [])
        assert await found(ask, path="build/deep/e.txt") == (["build/deep/e.txt"], [])


async def test_other_tools_show_and_read_what_is_ignored(root: Path) -> None:
    async with Client(build_server(str(root))) as client:
        ask = asker(client)
        assert "build/" in (await ask("list_directory"))[0]
        assert "build/deep/e.txt" in (await ask("tree"))[0]
        assert "build/deep/e.txt" in (await ask("search_files", pattern="e.*"))[0]
        assert await ask("read_text_file", path="build/d.py") == ("build/d.py: 1 lines\nneedle\n", False)
        assert "kind: folder" in (await ask("file_info", path="build"))[0]


async def test_rules_above_the_root_are_not_asked(root: Path) -> None:
    (root.parent / ".gitignore").write_text("*.py\n", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        assert (await found(asker(client)))[0] == ["a.py", "sub/b.py"]


@pytest.mark.parametrize("kind", ["link", "broken link", "folder", "pipe", "not UTF-8", "too large", "too many"])
async def test_an_ignore_file_that_cannot_be_used_hides_nothing_and_is_told(root: Path, kind: str) -> None:
    place = root / ".gitignore"
    place.unlink()
    (root.parent / "outside").write_text("*\n", encoding="utf-8")
    match kind:
        case "link" | "broken link":
            place.symlink_to("../outside" if kind == "link" else "nowhere")
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "not UTF-8":
            place.write_bytes(b"*\n\xff\n")
        case "too large":
            place.write_bytes(b"*\n" + b"#" * MAX_FILE_BYTES)
        case _:
            place.write_bytes(b"*\n" * (MAX_RULES + 1))
    async with Client(build_server(str(root))) as client:
        paths, remarks = await found(asker(client))
        assert len(paths) == 7 and remarks == ["(1 .gitignore files could not be used)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_an_ignore_file_that_may_not_be_read_is_told(root: Path) -> None:
    (root / ".gitignore").chmod(0)
    async with Client(build_server(str(root))) as client:
        assert (await found(asker(client)))[1] == ["(1 .gitignore files could not be used)"]


async def test_an_ignore_file_swapped_for_a_link_while_it_is_opened_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "outside"
    outside.write_text("*\n", encoding="utf-8")

    def lstat_then_swap(parent: int, name: str) -> os.stat_result | None:
        status = lstat(parent, name)
        if name == ".gitignore" and status is not None:
            (root / name).unlink()
            (root / name).symlink_to(outside)
        return status

    monkeypatch.setattr(ignoring, "lstat", lstat_then_swap)
    async with Client(build_server(str(root))) as client:
        paths, remarks = await found(asker(client))
        assert (root / ".gitignore").is_symlink()
        assert len(paths) == 7 and remarks == ["(1 .gitignore files could not be used)"]


async def test_many_large_ignore_files_are_read_up_to_a_cap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignoring, "MAX_BYTES_OF_A_WALK", len(ALL_RULES))
    (root / "sub" / ".gitignore").write_text("b.py\n", encoding="utf-8")
    async with Client(build_server(str(root))) as client:
        paths, remarks = await found(asker(client))
        assert paths == ["a.py", "sub/b.py"]
        assert remarks == [LEFT_OUT.format(4), "(1 .gitignore files could not be used)"]


async def test_a_search_in_which_all_is_ignored_keeps_its_time(root: Path) -> None:
    (root / ".gitignore").write_text("*\n", encoding="utf-8")
    server = build_server(str(root), limits=Limits(search_timeout_s=0.0))
    text, is_error = await ask_once(server, "search_text", text="needle")
    assert not is_error and text.startswith("no match in 0 files\n(stopped at a limit")
