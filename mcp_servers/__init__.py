"""Real MCP servers, one folder each: `server.py` speaks the protocol, `policy.py` holds the pure rules.

Nothing here imports `agentkit` or `modelstack`: any MCP client can use these servers.
"""

__version__ = "0.1.0"
