"""The rules of `.gitignore` and `.ignore` files: no I/O, no MCP; `filesystem.ignoring` reads the files."""
