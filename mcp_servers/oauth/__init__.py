"""OAuth for servers: bearer tokens of an authorization server are verified, and clients are told where to log in.

Independent of MCP servers and agents: `RequireOAuth` guards any ASGI application.
"""
