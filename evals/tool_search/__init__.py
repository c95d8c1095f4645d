"""Tool search: 1,000 real tools, requests in the words of people, and the tools that answer them; see SOURCES.md."""
