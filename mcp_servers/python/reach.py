"""Reach of the Python server's process."""

from __future__ import annotations

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read Python and the system's libraries, and change nothing. It may start "
    "Monty, the interpreter of the snippets, and connect to nothing."
)


def reach() -> Confinement:
    """Return the confinement of the server; snippets run in the interpreter that Monty's package installs."""
    from pydantic_monty._binary import find_monty_binary

    try:
        interpreter = find_monty_binary()
    except FileNotFoundError:  # the first snippet reports it
        return Confinement()
    return Confinement(reads=(interpreter,), executes=(interpreter,))
