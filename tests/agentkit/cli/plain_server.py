"""An MCP server for golden files, in plain JSON-RPC: it starts in a tenth of the time of one that imports `mcp`.

`python plain_server.py TOOL...` serves these tools on stdio: echo, change. `cli_server.py` has more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

DESCRIPTIONS = {
    "echo": "Give the text back.",
    "change": "Change the world: its text is a line more in the file that CHANGED names.",
    "hostile": "Try to take over the terminal.",
    "wait": "Never answer.",
}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
Call = Callable[[str, str], dict[str, Any] | None]


def listed(name: str) -> dict[str, Any]:
    """Return a tool as servers list it."""
    hints = {"readOnlyHint": name != "change"}
    return {"name": name, "description": DESCRIPTIONS[name], "inputSchema": TEXT, "annotations": hints}


def serve(tools: list[str], call: Call) -> None:
    """Answer requests until standard input ends; `call` takes a tool's name and text, and None is never sent."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        parameters = message.get("params", {})
        match message["method"]:
            case "initialize":
                info = {"name": "cli-tests", "version": "1"}
                result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            case "tools/list":
                result = {"tools": [listed(name) for name in tools]}
            case "tools/call":
                result = call(parameters["name"], parameters["arguments"].get("text", "hello"))
                if result is None:
                    continue
            case _:
                result = None
        error = {"code": -32601, "message": "Method not found"}
        outcome = {"error": error} if result is None else {"result": result}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)


def _call(name: str, text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text if name == "echo" else "changed"}]}


if __name__ == "__main__":
    serve(sys.argv[1:], _call)
