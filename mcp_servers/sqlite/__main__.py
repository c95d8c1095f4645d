"""`agentkit-mcp sqlite DB [--write] [--export DIR] [--timeout S] [--max-rows N] [--http ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_servers.failures import StartError
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.reach import CONFINED_TO, reach

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the database."""
    defaults = Limits()
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp sqlite",
        description="Serve the SQLite database DB over MCP. Read only unless --write is given.",
    )
    parser.add_argument("database", metavar="DB", help="an existing database file (an empty file is one)")
    parser.add_argument("--write", action="store_true", help="also offer `execute`, which changes the data")
    parser.add_argument(
        "--export", metavar="DIR", help="also offer `export_csv`, which makes files in this folder"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        default=defaults.timeout_s,
        help="seconds a statement may run (%(default)s)",
    )
    parser.add_argument(
        "--max-rows",
        type=int,
        metavar="N",
        default=defaults.max_rows,
        help="rows one answer holds (%(default)s)",
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)
    if options.timeout <= 0 or options.max_rows < 1:
        parser.error("--timeout must be positive and --max-rows at least 1")

    with quick_imports():
        from mcp_servers.sqlite.server import build_server

    limits = Limits(timeout_s=options.timeout, max_rows=options.max_rows)

    def build() -> Server[Any]:
        return build_server(options.database, write=options.write, export=options.export, limits=limits)

    try:
        serve(build, options, reach(options.database, write=options.write, export=options.export))
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
