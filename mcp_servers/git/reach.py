"""Reach of the git server's process, and so of git itself.

The repository's own files decide what git opens and runs. Whatever they say, and however they change while a
command runs, the kernel lets git open nothing outside the repository and start no program but git.
"""

from __future__ import annotations

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server and git read REPOSITORY, change it with --write, and read Python and the "
    "system's libraries, nothing else. They may start git, no other program, and connect to nothing."
)
# Git reads a user's name there for its logs if the configuration has none.
_USER_NAMES = ("/etc/passwd", "/etc/nsswitch.conf")


def reach(repository: str, programs: tuple[str, ...], *, write: bool) -> Confinement:
    """Return the confinement of a server for a repository.

    Args:
        repository: Its top folder.
        programs: Paths of git; it starts itself through the one in its own folder.
        write: Whether the repository can be changed.
    """
    return Confinement(reads=(repository, *_USER_NAMES), writes=(repository,) if write else (), executes=programs)
