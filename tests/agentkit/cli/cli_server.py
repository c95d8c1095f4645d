"""An MCP server for the tests of the command line: `python cli_server.py TOOL... [PID_FILE]` serves on stdio."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from mcp.server import MCPServer

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


for tool in (echo, hostile, wait):
    if tool.__name__ in sys.argv[1:]:
        server.add_tool(tool)

if __name__ == "__main__":
    if os.sep in sys.argv[-1]:
        Path(sys.argv[-1]).write_text(str(os.getpid()), encoding="ascii")
    server.run("stdio")
