"""Models by name: where their files come from, and how they are fetched and verified."""
