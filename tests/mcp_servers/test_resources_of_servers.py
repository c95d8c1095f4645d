"""Resources and prompts of the filesystem, git, SQLite and memory servers, under the rules of their tools."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel.server import Server

from agentkit.context import RunContext
from agentkit.mcp import MCPToolset
from mcp_servers.filesystem import resources as file_resources
from mcp_servers.filesystem.server import build_server as filesystem_server
from mcp_servers.git.server import build_server as git_server
from mcp_servers.media_types import media_type
from mcp_servers.memory.server import build_server as memory_server
from mcp_servers.resources import MAX_RESOURCE_BYTES
from mcp_servers.sqlite.server import build_server as sqlite_server
from tests.mcp_servers.git_repository import new_repository
from tests.mcp_servers.server_harness import http_server

pytestmark = pytest.mark.anyio


async def uris_of(server: Server[Any]) -> list[str]:
    async with Client(server) as client:
        return [str(each.uri) for each in (await client.list_resources()).resources]


async def read(server: Server[Any], uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    async with Client(server) as client:
        (contents,) = (await client.read_resource(uri)).contents
        return contents


async def text_of(server: Server[Any], uri: str) -> str:
    contents = await read(server, uri)
    assert isinstance(contents, types.TextResourceContents)
    return contents.text


async def refusal(server: Server[Any], uri: str) -> str:
    async with Client(server) as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    return str(caught.value)


async def completions(server: Server[Any], reference: Any, argument: str, value: str, **given: str) -> list[str]:
    async with Client(server) as client:
        found = await client.complete(reference, {"name": argument, "value": value}, given or None)
        return found.completion.values


async def prompt_text(server: Server[Any], name: str, /, **arguments: str) -> str:
    async with Client(server) as client:
        (message,) = (await client.get_prompt(name, arguments)).messages
        assert isinstance(message.content, types.TextContent)
        return message.content.text


async def prompt_refusal(server: Server[Any], name: str, /, **arguments: str) -> str:
    async with Client(server) as client:
        with pytest.raises(MCPError) as caught:
            await client.get_prompt(name, arguments)
    return str(caught.value)


# -- filesystem ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of several kinds, and a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git/config").write_text("", encoding="utf-8")
    (root / ".gitignore").write_text("*.log\n", encoding="utf-8")
    (root / "run.log").write_text("", encoding="utf-8")
    (root / "a b#?.md").write_text("# Hi\u200b", encoding="utf-8")
    (root / "sub/data.bin").write_bytes(b"\0\1")
    (root / "sub/latin.txt").write_bytes(b"\xe4")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / os.fsdecode(b"no\xff.txt")).write_text("", encoding="utf-8")
    return root


async def test_files_are_listed_as_a_search_finds_them(folder: Path) -> None:
    listed = await uris_of(filesystem_server(str(folder)))
    assert sorted(listed) == [
        "file:///.gitignore",
        "file:///a%20b%23%3F.md",
        "file:///sub/data.bin",
        "file:///sub/latin.txt",
    ]


async def test_a_file_is_text_or_bytes(folder: Path) -> None:
    server = filesystem_server(str(folder))
    note = await read(server, "file:///a%20b%23%3F.md")
    assert isinstance(note, types.TextResourceContents)
    assert (note.text, note.mime_type) == ("# Hi", "text/markdown")
    for name, data in (("data.bin", b"\0\1"), ("latin.txt", b"\xe4")):
        contents = await read(server, f"file:///sub/{name}")
        assert isinstance(contents, types.BlobResourceContents)
        assert (base64.b64decode(contents.blob), contents.mime_type) == (data, "application/octet-stream")
    assert await text_of(server, "file:///run.log") == ""  # left out of the list, and readable, as with the tools


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///../secret.txt", "'..' is not allowed"),
        ("file:///sub%2F..%2F..%2Fsecret.txt", "'..' is not allowed"),
        ("file:////etc/passwd", "is absolute"),
        ("file:///link.txt", "is a link; links are not followed"),
        ("file:///sub", "is a folder"),
        ("file:///", "The path is empty"),
        ("file:///.trash/x", "is the server's own"),
        ("file:///a%00b", "control character"),
        ("file:///gone.txt", "'gone.txt' does not exist"),
        ("file://host/a", "is no resource of this server"),
    ],
)
async def test_paths_follow_the_rules_of_the_tools(folder: Path, uri: str, message: str) -> None:
    said = await refusal(filesystem_server(str(folder)), uri)
    assert message in said and "secret:" not in said and str(folder.parent) not in said


async def test_a_large_file_is_refused_whole(folder: Path) -> None:
    (folder / "large.txt").write_text("x" * (MAX_RESOURCE_BYTES + 1), encoding="utf-8")
    said = await refusal(filesystem_server(str(folder)), "file:///large.txt")
    assert "has 500,001 bytes" in said and "read_text_file reads a part of it" in said


async def test_paths_are_completed_folder_by_folder(folder: Path) -> None:
    server = filesystem_server(str(folder))
    reference = types.ResourceTemplateReference(uri=file_resources.FILE_TEMPLATE)
    assert await completions(server, reference, "path", "s") == ["sub/"]
    assert await completions(server, reference, "path", "sub/l") == ["sub/latin.txt"]
    assert await completions(server, reference, "path", "link") == []
    assert await completions(server, reference, "path", "../") == []


async def test_changes_are_told_over_http_to_a_confined_servers_clients(folder: Path) -> None:
    with http_server("mcp_servers.filesystem", str(folder)) as (url, token):
        for mode in ("auto", "legacy"):
            remote = MCPToolset.http(url, headers={"Authorization": f"Bearer {token}"}, pins=None, mode=mode)
            async with remote, remote.subscribe("file:///sub/data.bin") as changes:
                assert (await remote.read_resource("file:///sub/data.bin")).items[0].media_type is not None
                (folder / "sub/data.bin").write_text(f"changed {mode}", encoding="utf-8")
                assert await anext(changes) == "file:///sub/data.bin"


def test_media_types_follow_the_content() -> None:
    assert media_type("a.md", is_text=True) == "text/markdown"
    assert media_type("a.png", is_text=True) == "text/plain"
    assert media_type("a.PNG", is_text=False) == "image/png"
    assert media_type("a.txt", is_text=False) == "application/octet-stream"
    assert media_type("README", is_text=True) == "text/plain"


# -- git -------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


async def test_commits_files_and_status_of_a_repository(repository: Path) -> None:
    server = git_server(str(repository))
    listed = await uris_of(server)
    assert listed[0] == "git:///status" and len(listed) == 3
    assert (await text_of(server, listed[1])) == await text_of(server, "git:///commits/HEAD")
    assert "Second" in await text_of(server, "git:///commits/main")
    assert "Nothing to commit" in await text_of(server, "git:///status")
    names = (await text_of(server, "git:///files/HEAD/src")).splitlines()
    source = await read(server, f"git:///files/HEAD~1/src/{names[0]}")
    assert isinstance(source, types.TextResourceContents) and source.mime_type == "text/x-python"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("git:///commits/none", "There is no commit 'none'"),
        ("git:///commits/--output=x", "revision"),
        ("git:///files/HEAD/../x", "'..' is not allowed"),
        ("git:///files/HEAD/.git/config", "repository's own folder"),
        ("git:///files/HEAD/gone", "HEAD has no 'gone'"),
    ],
)
async def test_revisions_and_paths_follow_the_rules_of_the_tools(repository: Path, uri: str, message: str) -> None:
    assert message in await refusal(git_server(str(repository)), uri)


async def test_a_binary_file_and_a_large_one_are_refused(repository: Path) -> None:
    (repository / "data.bin").write_bytes(b"\0" * 10)
    (repository / "large.txt").write_text("line\n" * 200_000, encoding="utf-8")
    for arguments in (["add", "."], ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "Large"]):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    server = git_server(str(repository))
    assert "is a binary file of 10 bytes" in await refusal(server, "git:///files/HEAD/data.bin")
    assert "git_show_file reads it by pages" in await refusal(server, "git:///files/HEAD/large.txt")
    assert "git_show reads it by pages" in await refusal(server, "git:///commits/HEAD")


async def test_an_empty_repository_lists_its_status_only(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    server = git_server(str(tmp_path))
    assert await uris_of(server) == ["git:///status"]
    assert "no commit yet" in await prompt_refusal(server, "review_changes")


async def test_revisions_and_paths_are_completed(repository: Path) -> None:
    subprocess.run(["git", "branch", "fix/typo"], cwd=repository, check=True)
    server = git_server(str(repository))
    commit = types.ResourceTemplateReference(uri="git:///commits/{revision}")
    file = types.ResourceTemplateReference(uri="git:///files/{revision}/{+path}")
    assert await completions(server, commit, "revision", "") == ["HEAD", "fix/typo", "main"]
    assert await completions(server, file, "path", "src/m", revision="main") == ["src/main.py"]
    assert await completions(server, file, "path", "", revision="none") == []
    assert await completions(server, types.PromptReference(name="summarise_changes"), "since", "f") == ["fix/typo"]
    assert "Second" in await text_of(server, "git:///commits/fix%2Ftypo")


async def test_prompts_contain_the_patch(repository: Path) -> None:
    (repository / "readme.md").write_text("Changed here.\n", encoding="utf-8")
    server = git_server(str(repository))
    review = await prompt_text(server, "review_changes", focus="spelling")
    assert "above all: spelling." in review and "+Changed here." in review
    assert "src/main.py" in await prompt_text(server, "summarise_changes", since="HEAD~1")
    assert "There is no commit 'none'" in await prompt_refusal(server, "summarise_changes", since="none")


# -- SQLite ----------------------------------------------------------------------------------------------------


async def test_tables_of_a_database(database: str) -> None:
    server = sqlite_server(database)
    listed = await uris_of(server)
    assert listed[0] == "sqlite:///schema" and "sqlite:///tables/users" in listed
    assert "users(id, name, photo)" in await text_of(server, "sqlite:///schema")
    assert "1 | Ann" in await text_of(server, "sqlite:///tables/users")
    assert "'usrs'" in await refusal(server, "sqlite:///tables/usrs")
    reference = types.ResourceTemplateReference(uri="sqlite:///tables/{table}")
    assert await completions(server, reference, "table", "U") == ["users"]
    text = await prompt_text(server, "answer_from_database", question="Who orders most?")
    assert "orders(id, user_id, note)" in text and text.endswith("Question: Who orders most?")


# -- memory ----------------------------------------------------------------------------------------------------


async def remember(server: Server[Any], name: str, *facts: str) -> None:
    async with Client(server) as client:
        entity = {"name": name, "entityType": "person", "observations": list(facts)}
        assert not (await client.call_tool("create_entities", {"entities": [entity]})).is_error


async def test_entities_of_a_memory(tmp_path: Path) -> None:
    server = memory_server(str(tmp_path / "memory.db"))
    assert await uris_of(server) == []
    await remember(server, "Ann Lee/Berlin", "likes tea")
    await remember(server, "Bob", *(f"{n} " + "x" * 900 for n in range(100)))
    listed = await uris_of(server)
    assert listed == ["memory:///entities/Ann%20Lee%2FBerlin", "memory:///entities/Bob"]
    assert await text_of(server, listed[0]) == "Ann Lee/Berlin (person)\n- likes tea"
    everything = await text_of(server, listed[1])
    assert everything.count("- ") == 100 and "(more;" not in everything
    assert "Carl" in await refusal(server, "memory:///entities/Carl")
    reference = types.ResourceTemplateReference(uri="memory:///entities/{name}")
    assert await completions(server, reference, "name", "ann") == ["Ann Lee/Berlin"]
    assert "- likes tea" in await prompt_text(server, "recall", name="Ann Lee/Berlin")


async def test_more_than_a_resource_holds_is_refused(tmp_path: Path) -> None:
    server = memory_server(str(tmp_path / "memory.db"))
    for start in range(0, 300, 100):
        await remember(server, "Bob", *(f"{n} " + "x" * 1_900 for n in range(start, start + 100)))
    assert "open_nodes reads it by pages" in await refusal(server, "memory:///entities/Bob")


async def test_a_run_reads_resources_of_our_server_with_tools(database: str) -> None:
    async with MCPToolset(sqlite_server(database), resources="tools", assume_harmless=True) as toolset:
        tools = {each.name: each for each in await toolset.list_tools(RunContext(deps=None))}
        output = await tools["read_resource"].call({"uri": "sqlite:///schema"}, RunContext(deps=None))
    assert "orders(id, user_id, note)" in output.content
