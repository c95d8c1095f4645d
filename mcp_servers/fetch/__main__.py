"""`agentkit-mcp fetch [--allow ORIGIN ...] [--ignore-robots] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_servers.distribution import install_command
from mcp_servers.failures import StartError
from mcp_servers.fetch.reach import CONFINED_TO, reach
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp fetch",
        description="Read web pages over MCP, as Markdown. Only addresses of the public internet are asked.",
    )
    parser.add_argument(
        "--allow",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="an origin that may be at any address, as http://localhost:8000; repeatable",
    )
    parser.add_argument("--ignore-robots", action="store_true", help="do not ask for robots.txt")
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)

    try:
        with quick_imports():
            from mcp_servers.fetch.policy import PORTS
            from mcp_servers.fetch.server import build_server
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is missing: {install_command('servers')}")

    def build() -> Server[Any]:
        return build_server(allow=options.allow, ignore_robots=options.ignore_robots)

    try:
        serve(build, options, reach(PORTS, options.allow))
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
