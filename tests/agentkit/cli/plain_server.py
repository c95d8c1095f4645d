"""An MCP server for golden files, in plain JSON-RPC: it starts in a tenth of the time of one that imports `mcp`.

`python plain_server.py TOOL...` serves these tools on stdio: echo, change.
"""

from __future__ import annotations

import json
import sys
from typing import Any

DESCRIPTIONS = {
    "echo": "Give the text back.",
    "change": "Change the world: its text is a line more in the file that CHANGED names.",
}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}


def listed(name: str) -> dict[str, Any]:
    """Return a tool as servers list it."""
    hints = {"readOnlyHint": name != "change"}
    return {"name": name, "description": DESCRIPTIONS[name], "inputSchema": TEXT, "annotations": hints}


def answer(method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a request; None for an unknown method."""
    match method:
        case "initialize":
            info = {"name": "cli-tests", "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            return {"tools": [listed(name) for name in sys.argv[1:]]}
        case "tools/call":
            text = parameters["arguments"].get("text", "hello") if parameters["name"] == "echo" else "changed"
            return {"content": [{"type": "text", "text": text}]}
        case _:
            return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = answer(message["method"], message.get("params", {}))
        error = {"code": -32601, "message": "Method not found"}
        outcome = {"error": error} if result is None else {"result": result}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)
