"""The two stages of a constitution with any agentkit model: `agentkit constitution revise` and `compare`."""
