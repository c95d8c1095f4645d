"""`agentkit-mcp python [--seconds S] [--memory MIB] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mcp_servers.distribution import install_command
from mcp_servers.failures import StartError
from mcp_servers.python.policy import Limits
from mcp_servers.python.reach import CONFINED_TO, reach
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve

MIB = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    defaults = Limits()
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp python",
        description="Run untrusted Python over MCP: no files, no network, bounded time and memory.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=defaults.seconds,
        help="seconds that one snippet may run (%(default)s)",
    )
    parser.add_argument(
        "--memory",
        type=int,
        metavar="MIB",
        default=defaults.memory_bytes // MIB,
        help="memory of one snippet or session (%(default)s)",
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 600 or not 1 <= options.memory <= 65_536:
        parser.error("--seconds must be above 0 and at most 600, --memory 1 to 65536")

    try:
        with quick_imports():
            from mcp_servers.python.server import build_server
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is missing: {install_command('servers')}")
    limits = Limits(seconds=options.seconds, memory_bytes=options.memory * MIB)
    try:
        serve(lambda: build_server(limits=limits), options, reach())
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
