"""Grammars that a reply cannot leave, from JSON Schemas and the conventions of tool calls."""
