"""An MCP server for the tests of the command line: `python cli_server.py TOOL... [PID_FILE]` serves on stdio.

In plain JSON-RPC, so that it starts in a tenth of the time of one that imports `mcp`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from plain_server import DESCRIPTIONS, serve

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]not markup[/bold red]\u202eevil\r\nsecond line"


def _call(name: str, text: str) -> dict[str, Any] | None:
    """Return the result of a tool; `change` adds its text as a line to the file `changed` in HOME."""
    if name == "wait":
        return None
    if name == "change":
        with open(os.environ["HOME"] + "/changed", "a", encoding="utf-8") as file:
            file.write(text + "\n")
    shown = {"echo": text, "change": "changed", "hostile": HOSTILE}[name]
    return {"content": [{"type": "text", "text": shown}], "structuredContent": {"result": shown}}


if __name__ == "__main__":
    if os.sep in sys.argv[-1]:
        Path(sys.argv[-1]).write_text(str(os.getpid()), encoding="ascii")
    serve([name for name in sys.argv[1:] if name in DESCRIPTIONS], _call)
