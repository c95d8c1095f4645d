"""Use MCP servers from an `mcpServers` file, the configuration that MCP hosts share."""

import json
import tempfile
from pathlib import Path

from agentkit import Agent, MCPToolset, ToolReturnPart
from agentkit.testing import ScriptedModel, call

HERE = Path(__file__).parent
CONFIG = {
    "mcpServers": {
        "notes": {"command": "python", "args": ["-m", "mcp_servers.filesystem", str(HERE / "notes")]},
        "shop": {"command": "python", "args": ["-m", "mcp_servers.sqlite", str(HERE / "shop.db")]},
    }
}

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mcp.json"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    toolsets = MCPToolset.from_config(file)

# Both servers answer in the same step: their calls run side by side.
calls = [
    call("search_text", text="overdue"),
    call("query", sql="SELECT name FROM products WHERE stock = 0"),
]
model = ScriptedModel([calls, "The library books are overdue, and seed boxes are out of stock."])
result = Agent(model, toolsets=toolsets).run_sync("What is overdue in my notes, and what is out of stock?")
print(result.output)

parts = [part for message in result.messages for part in message.parts]
returned = [part.content for part in parts if isinstance(part, ToolReturnPart)]
print(*returned, sep="\n")
assert "library books" in returned[0]
assert "seed box" in returned[1]
