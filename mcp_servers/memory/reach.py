"""Reach of the memory server's process."""

from __future__ import annotations

import sys
from pathlib import Path

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read and change the folder of FILE, where SQLite keeps its logs too (with "
    "--read-only as well: readers mark there what they read). It may start Python and connect to nothing."
)


def reach(file: str) -> Confinement:
    """Return the confinement of a server for the store `file`."""
    return Confinement(
        writes=(str(Path(file).resolve().parent),),
        executes=(sys.executable,),
        has_temporary_folder=True,  # for large sorts
    )
