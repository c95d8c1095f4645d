"""Answer a question about a folder of notes, with the model in this process and a server that can only read.

`python answer_from_files.py`, or with another model: `python answer_from_files.py local:small`.
"""

import json
import sys
from pathlib import Path

from agentkit import Agent, MCPToolset, ToolCallPart

NOTES = Path(__file__).parent / "notes"

agent = Agent(
    sys.argv[1] if len(sys.argv) > 1 else "local",
    toolsets=[MCPToolset.stdio("python", "-m", "mcp_servers.filesystem", NOTES)],
)
result = agent.run_sync("How many lines does todo.md have?")

for message in result.messages:
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            # A local model's calls follow the grammar of the server's tools, so the arguments are always valid.
            print(part.tool_name, json.loads(part.arguments))
# A small model may say that no tool fits; then there is no output.
print(result.output_or_none)
assert result.status in ("completed", "abstained")
