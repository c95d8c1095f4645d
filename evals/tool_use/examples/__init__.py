"""Suite over the user's own examples of tool calls."""
