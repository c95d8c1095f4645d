"""A constitution's two stages with any agentkit model: `agentkit constitution revise` and `compare`."""
