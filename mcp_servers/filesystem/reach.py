"""Reach of the filesystem server's process."""

from __future__ import annotations

import sys

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read ROOT, change it with --write, and read Python and the system's "
    "libraries, nothing else. It may start Python (for regular expressions) and connect to nothing."
)


def reach(root: str, *, write: bool) -> Confinement:
    """Return the confinement of a server for the folder `root`."""
    return Confinement(
        reads=(root,),
        writes=(root,) if write else (),
        executes=(sys.executable,),
        moves_between_folders=write,
    )
