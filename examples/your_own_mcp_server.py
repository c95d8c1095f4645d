"""Offer functions as an MCP server, which any MCP client can use, and use it from an agent in the same process."""

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from agentkit import Agent, MCPToolset, ToolReturnPart
from agentkit.testing import ScriptedModel, call

server = MCPServer("garden")


# The annotations tell clients that the tool only reads; without them a client must expect the worst.
@server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
def when_to_sow(plant: str) -> str:
    """Say when to sow a plant."""
    return {"peas": "March to May", "kale": "May to June"}.get(plant, "unknown plant")


model = ScriptedModel([call("when_to_sow", plant="peas"), "Sow peas from March to May."])
result = Agent(model, toolsets=[MCPToolset(server)]).run_sync("When do I sow peas?")
print(result.output)

# For other clients, `server.run()` serves standard input and output, `server.run("streamable-http")` serves HTTP.
[returned] = [part for message in result.messages for part in message.parts if isinstance(part, ToolReturnPart)]
assert returned.content == "March to May"
