"""Measures `agentkit improve` on MCP servers with a local model: gains on held-back tasks, and refusals."""
