"""Reach of the Python server's process."""

from __future__ import annotations

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read Python and the system's libraries, and change nothing. It may start "
    "Monty, the interpreter of the snippets, and connect to nothing."
)


def reach() -> Confinement:
    """Return the confinement of the server, whose snippets run in the program that Monty's package installs."""
    from pydantic_monty._binary import find_monty_binary

    try:
        interpreter = find_monty_binary()
    except FileNotFoundError:  # the first snippet says so
        return Confinement()
    return Confinement(reads=(interpreter,), executes=(interpreter,))
