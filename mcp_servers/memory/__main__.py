"""`agentkit-mcp memory FILE [--read-only] [--max-mb N] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_servers.failures import StartError
from mcp_servers.memory.policy import Limits
from mcp_servers.memory.reach import CONFINED_TO, reach
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

MEBIBYTE = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the store."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp memory",
        description="Serve the knowledge store FILE over MCP. It is created if there is none; another program's "
        "file is refused and left as it is.",
    )
    parser.add_argument("file", metavar="FILE", help="the store, in a folder that exists")
    parser.add_argument("--read-only", action="store_true", help="offer only tools that change nothing")
    parser.add_argument(
        "--max-mb",
        type=int,
        metavar="N",
        default=Limits().max_store_bytes // MEBIBYTE,
        help="size in MiB at which the store takes no more (%(default)s)",
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)
    if options.max_mb < 1:
        parser.error("--max-mb must be at least 1")

    with quick_imports():
        from mcp_servers.memory.server import build_server

    limits = Limits(max_store_bytes=options.max_mb * MEBIBYTE)

    def build() -> Server[Any]:
        return build_server(options.file, read_only=options.read_only, limits=limits)

    try:
        serve(build, options, reach(options.file))
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
