"""Ask a SQLite file a question in words: the model writes the SQL, and the server can only read.

`python query_a_database.py`, or with another model: `python query_a_database.py local:small`.
"""

import json
import sys
from pathlib import Path

from agentkit import Agent, MCPToolset, ToolCallPart

SHOP = Path(__file__).parent / "shop.db"
before = SHOP.read_bytes()

agent = Agent(
    sys.argv[1] if len(sys.argv) > 1 else "local",
    toolsets=[MCPToolset.stdio("python", "-m", "mcp_servers.sqlite", SHOP)],
)
result = agent.run_sync("Which products are out of stock?")

for message in result.messages:
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            print(part.tool_name, json.loads(part.arguments))
# A small model may say that no tool fits; then there is no output.
print(result.output_or_none)
assert result.status in ("completed", "abstained")
assert SHOP.read_bytes() == before  # whatever the model writes, the file stays as it was
