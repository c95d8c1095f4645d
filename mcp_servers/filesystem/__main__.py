"""`agentkit-mcp filesystem ROOT [--write] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mcp_servers.failures import StartError
from mcp_servers.filesystem.reach import CONFINED_TO, reach
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the folder."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp filesystem",
        description="Serve the files below ROOT over MCP. Read only unless --write is given; "
        "links are never followed; deleted files go to ROOT/.trash.",
        epilog="search_text leaves out .git and what .gitignore and .ignore files in ROOT and below name (whether "
        "there is a .git or not; not those above ROOT, .git/info/exclude or git's global excludes), unless it is "
        "given ignored=true or that file or folder as its path. No other tool does.",
    )
    parser.add_argument("root", metavar="ROOT", help="the folder to serve")
    parser.add_argument("--write", action="store_true", help="also offer tools that change files")
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)

    with quick_imports():
        from mcp_servers.filesystem.server import build_server

    confinement = reach(options.root, write=options.write)
    try:
        serve(lambda: build_server(options.root, write=options.write), options, confinement)
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
