"""Tool search: 1,000 real tools, requests in people's words, and the tools that answer them; see SOURCES.md."""
