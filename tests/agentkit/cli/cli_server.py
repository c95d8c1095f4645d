"""An MCP server for the tests of the command line: `python cli_server.py TOOL... [PID_FILE]` serves on stdio."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from mcp.server import MCPServer
from mcp_types import ToolAnnotations

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]not markup[/bold red]\u202eevil\r\nsecond line"

server = MCPServer("cli-tests", version="1")


async def echo(text: str = "hello") -> str:
    """Give the text back."""
    return text


async def hostile() -> str:
    """Try to take over the terminal."""
    return HOSTILE


async def wait() -> str:
    """Never answer."""
    await anyio.sleep_forever()
    return ""


async def change(text: str = "hello") -> str:
    """Change the world: its text is a line more in the file that CHANGED names."""
    with open(os.environ["HOME"] + "/changed", "a", encoding="utf-8") as file:
        file.write(text + "\n")
    return "changed"


for tool in (echo, hostile, wait, change):
    if tool.__name__ in sys.argv[1:]:
        server.add_tool(tool, annotations=ToolAnnotations(read_only_hint=tool is not change))

if __name__ == "__main__":
    if os.sep in sys.argv[-1]:
        Path(sys.argv[-1]).write_text(str(os.getpid()), encoding="ascii")
    server.run("stdio")
