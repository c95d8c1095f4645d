"""Search for tools: an agent with a thousand tools shows its model only those that it needs."""
