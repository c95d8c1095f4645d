"""`agentkit-mcp git REPOSITORY [--write] [--author 'NAME <MAIL>'] [--http --host --port --token]`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_servers.failures import StartError
from mcp_servers.git.reach import CONFINED_TO, reach
from mcp_servers.quick_start import quick_imports
from mcp_servers.serving import add_transport_arguments, serve

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

_AUTHOR = re.compile(r"[^<>\n]*[^<>\s] <[^<>\s]+>")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the repository."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp git",
        description="Serve the git repository in REPOSITORY over MCP. Read only unless --write is given; nothing "
        "that its configuration names is ever run.",
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="its top folder, which holds .git")
    parser.add_argument("--write", action="store_true", help="also offer add, commit, branches")
    parser.add_argument(
        "--author",
        metavar="'NAME <MAIL>'",
        default="",
        help="who commits (default: user.name and user.email of the repository's own configuration)",
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)
    if options.author and not _AUTHOR.fullmatch(options.author):
        parser.error(f"--author {options.author!r}: write it as 'Ann Lee <ann@example.org>'")

    with quick_imports():
        from mcp_servers.git.command import git_programs
        from mcp_servers.git.server import build_server

    def build() -> Server[Any]:
        return build_server(options.repository, write=options.write, author=options.author)

    try:
        serve(build, options, reach(options.repository, git_programs(), write=options.write))
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
