"""Rules of `.gitignore` and `.ignore` files, without I/O or MCP; `filesystem.ignoring` reads the files."""
