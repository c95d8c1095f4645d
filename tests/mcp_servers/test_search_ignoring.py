"""The search server's index leaves out what `.gitignore` names, follows its changes, and says what it left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server.lowlevel.server import Server
from server_harness import REPOSITORY, Ask, asker

from mcp_servers.failures import StartError
from mcp_servers.search.server import build_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for path in ("a.md", "out/b.md", "sub/c.md", "sub/out/d.md", "sub/e.log"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("needle\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/out/\n*.log\n", encoding="utf-8")
    return folder


def serve(folder: Path, **options: Any) -> Server[Any]:
    return build_server(str(folder), index=str(folder.parent / "index.db"), **options)


async def found(ask: Ask) -> list[str]:
    text, is_error = await ask("search", query="needle")
    assert not is_error
    return sorted(line.split(":")[0] for line in text.split("\n") if " (score " in line)


async def left_out(ask: Ask) -> list[str]:
    """Return what the status says of ignored entries and of ignore files."""
    text, is_error = await ask("index_status")
    assert not is_error
    return [line for line in text.split("\n") if "ignore" in line]


async def test_ignored_files_are_neither_found_nor_read_and_are_counted(folder: Path) -> None:
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert await found(ask) == ["a.md", "sub/c.md", "sub/out/d.md"]
        assert await left_out(ask) == ["left out: 2 files and folders that .gitignore or .ignore leaves out"]
        text, is_error = await ask("read_passage", path="out/b.md")
        assert is_error and "is not in the index" in text


async def test_gitignore_can_be_switched_off(folder: Path) -> None:
    (folder / ".ignore").symlink_to("nowhere")
    async with Client(serve(folder, gitignore=False)) as client:
        assert len(await found(asker(client))) == 5
        assert await left_out(asker(client)) == []


async def test_changed_rules_take_effect_at_the_next_refresh(folder: Path) -> None:
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert await found(ask) == ["a.md", "sub/c.md", "sub/out/d.md"]
        (folder / ".gitignore").write_text("/out/\n", encoding="utf-8")
        (folder / "sub" / ".ignore").write_text("out\n", encoding="utf-8")
        assert "Files taken out of the index: 1." in (await ask("refresh"))[0]
        assert await found(ask) == ["a.md", "sub/c.md", "sub/e.log"]
        (folder / ".gitignore").unlink()
        (folder / "sub" / ".ignore").unlink()
        assert "Files taken out of the index: 0." in (await ask("refresh"))[0]
        assert len(await found(ask)) == 5
        assert await left_out(ask) == []


async def test_what_is_included_can_be_ignored(folder: Path) -> None:
    async with Client(serve(folder, include=["*.md"])) as client:
        assert await found(asker(client)) == ["a.md", "sub/c.md", "sub/out/d.md"]


async def test_ignore_files_that_cannot_be_used_hide_nothing_and_are_told(folder: Path) -> None:
    (folder.parent / "outside").write_text("*\n", encoding="utf-8")
    (folder / "sub" / ".gitignore").symlink_to("../../outside")
    (folder / "sub" / ".ignore").write_bytes(b"*\n\xff\n")
    async with Client(serve(folder)) as client:
        ask = asker(client)
        assert await found(ask) == ["a.md", "sub/c.md", "sub/out/d.md"]
        unusable, ignored = await left_out(ask)
        assert unusable.startswith(
            "left out: 2 .gitignore or .ignore files that cannot be used: links, unreadable"
        )
        assert ignored.startswith("left out: 2 files and folders")


async def test_the_command_line_switches_it_off(folder: Path) -> None:
    arguments = ["-m", "mcp_servers.search", str(folder), "--index", str(folder.parent / "i.db"), "--no-gitignore"]
    async with Client(StdioServerParameters(command=sys.executable, args=arguments, cwd=REPOSITORY)) as client:
        assert len(await found(asker(client))) == 5


@pytest.mark.parametrize("name", [".gitignore", ".ignore"])
def test_an_index_is_not_named_like_an_ignore_file(folder: Path, name: str) -> None:
    with pytest.raises(StartError, match="no name for an index"):
        build_server(str(folder), index=str(folder / "sub" / name))
