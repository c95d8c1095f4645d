"""`agentkit-mcp NAME ARGUMENTS...`, or `python -m mcp_servers NAME ARGUMENTS...`: runs one of the servers.

Only the server asked for is imported, so it starts as fast as `python -m mcp_servers.NAME`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

SERVERS = {
    "filesystem": "read and search the files below a folder; --write changes them",
    "git": "status, log, diffs, blame of a repository; --write commits",
    "sqlite": "tables and queries of a database; --write changes it",
    "memory": "a graph of facts that a model keeps in a file",
    "search": "full-text search in a folder: text, code, HTML, PDF",
    "fetch": "web pages as Markdown",
    "browser": "a page in an installed Chromium, for the origins named by --allow",
    "python": "untrusted Python, without files and network",
    "time": "time zones, dates, exact arithmetic and units",
}
"""Servers by name, with a line for the list."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server that the first argument names; list the servers without one."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return
    name, *others = words
    if name not in SERVERS:
        from mcp_servers.failures import suggestion

        hint = f"{suggestion(name, SERVERS)} Servers: {', '.join(SERVERS)}"
        print(f"agentkit-mcp: no server is called {name[:40]!r}.{hint}", file=sys.stderr)
        sys.exit(2)
    import_module(f"mcp_servers.{name}.__main__").main(others)


def listing() -> str:
    """Return the usage and the servers, one a line, at most 80 columns wide."""
    lines = "\n".join(f"  {name:11} {about}" for name, about in SERVERS.items())
    return (
        f"usage: agentkit-mcp NAME ARGUMENTS...\n\nMCP servers, over stdio or with --http:\n{lines}\n\n"
        "agentkit-mcp NAME --help lists the arguments of a server."
    )


if __name__ == "__main__":
    main()
