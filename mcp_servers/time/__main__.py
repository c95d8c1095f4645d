"""`agentkit-mcp time [--zone ZONE] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mcp_servers.distribution import install_command
from mcp_servers.failures import StartError
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve
from mcp_servers.time.reach import CONFINED_TO, reach


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp time",
        description="Serve time zones, date arithmetic, exact arithmetic and units over MCP.",
    )
    parser.add_argument(
        "--zone", metavar="ZONE", help="time zone of the user, as Europe/Berlin (default: the machine's)"
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)

    try:
        with quick_imports():
            from mcp_servers.time.server import build_server
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is missing: {install_command('servers')}")
    try:
        serve(lambda: build_server(options.zone), options, reach())
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
