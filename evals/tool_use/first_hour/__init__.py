"""First hour: 60 requests that a newcomer types, over our filesystem, SQLite and time servers."""
