"""`agentkit-mcp browser --allow ORIGIN [--chromium PATH] [--memory MB] [--no-sandbox] [--http ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mcp_servers.browser.chromium import Settings, find_chromium, sandbox_note
from mcp_servers.browser.policy import Limits
from mcp_servers.distribution import install_command
from mcp_servers.failures import StartError
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve

# From a phone's width to a large screen; a screenshot of the largest size has at most 12 MB.
WIDTHS = range(320, 2_561)
HEIGHTS = range(240, 1_601)
# An empty page uses 250 MB.
MEMORIES = range(500, 65_537)
# Chromium builds its own sandbox with namespaces or a set-user-ID helper. Landlock denies mounts, and the helper
# cannot gain privileges under it.
NOT_CONFINED = (
    "The server itself is not confined by the kernel; Chromium's sandbox and the tunnel confine the pages."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the browser."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp browser",
        description="Serve a page in an installed Chromium over MCP. It reaches the allowed origins and nothing "
        "else. Chromium's sandbox is on unless this runs as root or --no-sandbox is given.",
    )
    parser.add_argument(
        "--allow",
        metavar="ORIGIN",
        action="append",
        required=True,
        help="origin that pages may come from and talk to, like https://example.com or http://127.0.0.1:8000; "
        "repeat for more",
    )
    parser.add_argument("--chromium", metavar="PATH", help="the browser (default: the one that is installed)")
    parser.add_argument("--width", type=int, default=1280, help="width of the page in pixels (%(default)s)")
    parser.add_argument("--height", type=int, default=800, help="height of the page in pixels (%(default)s)")
    parser.add_argument(
        "--memory",
        type=int,
        metavar="MB",
        default=Limits().max_memory_bytes // 1_000_000,
        help="memory of all processes of Chromium, above which the page is ended (%(default)s)",
    )
    parser.add_argument("--no-sandbox", action="store_true", help="start Chromium without its own sandbox")
    add_transport_arguments(parser, NOT_CONFINED)
    options = parser.parse_args(arguments)
    if options.width not in WIDTHS or options.height not in HEIGHTS:
        parser.error(f"--width goes from {WIDTHS[0]} to {WIDTHS[-1]}, --height from {HEIGHTS[0]} to {HEIGHTS[-1]}")
    if options.memory not in MEMORIES:
        parser.error(f"--memory goes from {MEMORIES[0]} to {MEMORIES[-1]}")

    try:
        sandbox, note = sandbox_note(options.no_sandbox)
        executable = find_chromium(options.chromium)
        try:
            with quick_imports():
                from mcp_servers.browser.server import build_server
        except ModuleNotFoundError as error:
            parser.error(f"{error.name} is missing: {install_command('browser')}")
        settings = Settings(executable, sandbox=sandbox, width=options.width, height=options.height)
        limits = Limits(max_memory_bytes=options.memory * 1_000_000)
        server = build_server(options.allow, settings, limits=limits)
        print(note, file=sys.stderr, flush=True)
        serve(lambda: server, options, None)
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
