"""Reach of the time server's process."""

from __future__ import annotations

import sys
import zoneinfo

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read the time zones, Python and the system's libraries, and change nothing. "
    "It may start Python (for units) and connect to nothing."
)


def reach() -> Confinement:
    """Return the confinement of the server."""
    return Confinement(reads=(*zoneinfo.TZPATH, "/etc/timezone"), executes=(sys.executable,))
