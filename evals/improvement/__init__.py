"""Measures `agentkit improve` on two MCP servers with a local model: gains on held-back tasks, and a refusal."""
