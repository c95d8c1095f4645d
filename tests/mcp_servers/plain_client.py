"""What people do with the reference servers, done with ours by the plain `mcp.Client` alone.

    python -m tests.mcp_servers.plain_client

Files are written, edited and found; a change is committed to a repository and read back; a page is fetched; things
are remembered and looked up; times are converted. Each step prints what the server said.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client

from tests.mcp_servers.git_repository import new_repository

REPOSITORY = Path(__file__).resolve().parents[2]
ARTICLE = "<html><head><title>News</title></head><body><main><h1>News</h1>" + "<p>Plain words. </p>" * 20


class Said(Exception):
    """A server answered with an error."""


@asynccontextmanager
async def connected(*arguments: str) -> AsyncGenerator[Client]:
    """Start a server over stdio and connect to it."""
    parameters = StdioServerParameters(command=sys.executable, args=["-m", *arguments], cwd=REPOSITORY)
    async with Client(stdio_client(parameters)) as client:
        yield client


async def ask(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool, print and return its text.

    Raises:
        Said: The call failed.
    """
    result = await client.call_tool(tool, arguments)
    text = "".join(block.text for block in result.content if block.type == "text")
    print(f"{tool}: {text.splitlines()[0] if text else ''}")
    if result.is_error:
        raise Said(text)
    return text


async def files(folder: Path) -> None:
    """Write, edit, find, move and read a file."""
    async with connected("mcp_servers.filesystem", str(folder), "--write") as client:
        await ask(client, "create_directory", path="notes")
        await ask(client, "write_file", path="notes/todo.md", text="- milk\n- bread\n")
        assert "+- rye bread" in await ask(
            client, "edit_file", path="notes/todo.md", old_text="- bread", new_text="- rye bread"
        )
        assert "notes/todo.md" in await ask(client, "search_text", text="rye")
        await ask(client, "move", source="notes/todo.md", destination="notes/done.md")
        assert "done.md" in await ask(client, "list_directory", path="notes")
        assert "- milk\n- rye bread" in await ask(client, "read_text_file", path="notes/done.md")


async def history(folder: Path) -> None:
    """Commit a change on a branch and read it back."""
    new_repository(folder)
    (folder / "readme.md").write_text("# A better title\n")
    async with connected(
        "mcp_servers.git", str(folder), "--write", "--author", "Ann Lee <ann@example.org>"
    ) as client:
        assert "modified: readme.md" in await ask(client, "git_status")
        assert "+# A better title" in await ask(client, "git_diff")
        await ask(client, "git_create_branch", name="better")
        await ask(client, "git_add", paths=["readme.md"])
        assert "+# A better title" in await ask(client, "git_diff", staged=True)
        await ask(client, "git_commit", message="Better title")
        assert "Better title" in await ask(client, "git_log", limit=1)
        assert "+# A better title" in await ask(client, "git_show")
        await ask(client, "git_switch", name="main")
        assert "* main" in await ask(client, "git_branches")


@contextmanager
def a_page() -> Iterator[str]:
    """Serve one page; yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/news"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ARTICLE.encode() if found else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def pages() -> None:
    """Fetch a page."""
    with a_page() as origin:
        async with connected("mcp_servers.fetch", "--allow", origin) as client:
            assert "# News" in await ask(client, "fetch", url=f"{origin}/news")
            assert "<main>" in await ask(client, "fetch", url=f"{origin}/news", raw=True)


async def memories(file: Path) -> None:
    """Remember people and places, and find them in another process."""
    async with connected("mcp_servers.memory", str(file)) as client:
        await ask(
            client,
            "create_entities",
            entities=[
                {"name": "Ann Lee", "entityType": "person", "observations": ["Likes rye bread"]},
                {"name": "Oslo", "entityType": "city", "observations": []},
            ],
        )
        await ask(
            client, "create_relations", relations=[{"from": "Ann Lee", "to": "Oslo", "relationType": "lives in"}]
        )
        await ask(
            client, "add_observations", observations=[{"entityName": "Ann Lee", "contents": ["Speaks Norwegian"]}]
        )
    async with connected("mcp_servers.memory", str(file)) as client:
        assert "Ann Lee" in await ask(client, "search_nodes", query="norwegian")
        assert "Likes rye bread" in await ask(client, "open_nodes", names=["Ann Lee"])
        assert "lives in" in await ask(client, "read_graph")
        await ask(
            client,
            "delete_observations",
            deletions=[{"entityName": "Ann Lee", "observations": ["Likes rye bread"]}],
        )
        assert "Likes rye bread" not in await ask(client, "open_nodes", names=["Ann Lee"])
        await ask(client, "delete_entities", entityNames=["Oslo"])
        assert "Oslo" not in await ask(client, "read_graph")


async def times() -> None:
    """Ask the time and convert one."""
    async with connected("mcp_servers.time", "--zone", "Europe/Berlin") as client:
        assert "Asia/Tokyo" in await ask(client, "current_time", zone="Asia/Tokyo")
        assert "T22:30" in await ask(
            client, "convert_time", time="2026-03-01T14:30", from_zone="Europe/Berlin", to_zone="Asia/Tokyo"
        )


async def flows(folder: Path) -> None:
    """Go through all of them."""
    (folder / "files").mkdir()
    await files(folder / "files")
    await history(folder / "repository")
    await pages()
    await memories(folder / "memory.db")
    await times()


def main() -> None:
    """Run the flows in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(flows(Path(folder)))


if __name__ == "__main__":
    main()
