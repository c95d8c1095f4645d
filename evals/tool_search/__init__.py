"""Tool search: 1,000 real tools, requests written by hand, and the tools that answer them; see SOURCES.md."""
