"""`agentkit-mcp search FOLDER [--index FILE] [--include|--exclude GLOB ...] [--embeddings] ...`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_servers.failures import StartError
from mcp_servers.quick_start import quick_imports
from mcp_servers.search.default_embedder import minilm_embedder, minilm_files
from mcp_servers.search.reach import CONFINED_TO, reach
from mcp_servers.serving import add_transport_arguments, serve

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve the folder."""
    parser = argparse.ArgumentParser(
        prog="agentkit-mcp search",
        description="Serve full-text search in the files below FOLDER over MCP. Text, Markdown, code, HTML and "
        "PDF are read; names that begin with a dot, node_modules, __pycache__ and links are skipped.",
        epilog="A GLOB without a slash is compared with names, one with a slash with whole paths; * crosses "
        "slashes, and case is ignored. What matches a folder matches all that is in it. The .gitignore and "
        ".ignore files in FOLDER and below are honoured, with or without a .git folder; those above FOLDER, "
        ".git/info/exclude and git's global excludes are not.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder to search in")
    parser.add_argument("--index", metavar="FILE", help="the index file (default: one in the user's cache)")
    parser.add_argument(
        "--include", metavar="GLOB", nargs="+", action="extend", default=[], help="index only these, like '*.md'"
    )
    parser.add_argument(
        "--exclude", metavar="GLOB", nargs="+", action="extend", default=[], help="leave these out, like 'build'"
    )
    parser.add_argument(
        "--no-gitignore",
        dest="gitignore",
        action="store_false",
        help="index what .gitignore and .ignore files name, too",
    )
    parser.add_argument(
        "--embeddings",
        action="store_true",
        help="search by meaning, too, with all-MiniLM-L6-v2 (`agentkit models pull minilm`)",
    )
    parser.add_argument(
        "--rebuild-embeddings",
        action="store_true",
        help="replace an index's vectors of another embedding model instead of refusing the index",
    )
    add_transport_arguments(parser, CONFINED_TO)
    options = parser.parse_args(arguments)

    with quick_imports():
        from mcp_servers.search.index import cache_folder
        from mcp_servers.search.server import build_server

    def build() -> Server[Any]:
        return build_server(
            options.folder,
            index=options.index,
            include=options.include,
            exclude=options.exclude,
            gitignore=options.gitignore,
            embedder=minilm_embedder() if options.embeddings else None,
            other_embedder="rebuild" if options.rebuild_embeddings else "refuse",
        )

    try:
        index_folder = cache_folder() if options.index is None else Path(options.index).parent
        model_folder = minilm_files() if options.embeddings else None
        serve(build, options, reach(options.folder, str(index_folder), model_folder))
    except StartError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
