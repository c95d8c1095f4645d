"""Tools: definitions, sources and execution."""
