"""The surroundings of a rollout: the agent, and a fresh copy of the folder that its tools change.

Rollouts must not see each other's changes, or the score of a candidate would depend on its place in the queue.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio.to_thread

from agentkit.agent import Agent
from agentkit.errors import UserError
from agentkit.improve.tasks import Task
from agentkit.specialise.world_state import folder_state
from agentkit.tools.toolset import Toolset

WORLD = "{world}"
"""Placeholder, in a server's command, for the rollout's copy of the folder."""
IGNORED = frozenset({".trash", ".git"})
"""Folders that are no part of the compared state: the filesystem server moves deleted files to the first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Surroundings of one rollout."""

    agent: Agent[Any, Any]
    """Agent of this rollout, without the candidate's pieces."""
    toolsets: Sequence[Toolset] | None = None
    """Toolsets in place of the agent's; None keeps those."""
    deps: Any = None
    """Passed to the run."""
    observe: Callable[[], Any] | None = None
    """Returns the state of the world as JSON-like data."""


Staging = Callable[[Task], AbstractAsyncContextManager[Stage]]
"""Opens the surroundings of a task's rollout."""


def without_world(agent: Agent[Any, Any], deps: Any = None) -> Staging:
    """Return surroundings without a world: the same agent for every task. For tools that change nothing."""

    @asynccontextmanager
    async def stage(task: Task) -> AsyncGenerator[Stage]:
        yield Stage(agent, deps=deps)

    return stage


def in_world(
    agent: Agent[Any, Any], template: Path, toolsets: Callable[[Path], Sequence[Toolset]], deps: Any = None
) -> Staging:
    """Return surroundings with a fresh copy of a folder for each rollout.

    Args:
        agent: The agent; `toolsets` replace its own, its functions stay.
        template: Folder that is copied; never written to.
        toolsets: Returns toolsets on a copy.
        deps: Passed to the runs.

    Raises:
        UserError: the folder is missing, or contains a link, which would lead from a copy to the original.
    """
    if not template.is_dir():
        raise UserError(f"world {str(template)!r} is no folder; name one, of which each rollout gets a copy.")
    if link := next((path for path in template.rglob("*") if path.is_symlink()), None):
        raise UserError(f"world {str(template)!r} has a link in it, {link.name!r}: put the file itself there.")

    @asynccontextmanager
    async def stage(task: Task) -> AsyncGenerator[Stage]:
        with TemporaryDirectory(prefix="improve-", ignore_cleanup_errors=True) as folder:
            root = Path(folder) / "world"
            await anyio.to_thread.run_sync(shutil.copytree, template, root)
            yield Stage(agent, toolsets(root), deps, lambda: folder_state(root, IGNORED))

    return stage


def world_servers(commands: Sequence[str]) -> Callable[[Path], Sequence[Toolset]]:
    """Return a function that connects MCP servers to a copy; `{world}` in a command stands for its path.

    Raises:
        UserError: no command has the placeholder.
    """
    if not any(WORLD in command for command in commands):
        raise UserError(
            f"none of the servers {list(commands)!r} names the world: write {WORLD} where its folder belongs, "
            f"such as 'agentkit-mcp filesystem {WORLD}'."
        )

    def toolsets(root: Path) -> list[Toolset]:
        from agentkit.cli.options import mcp_toolsets

        return [
            toolset
            for command in commands
            # Without pins: a command with the path of a temporary copy never recurs.
            for toolset in mcp_toolsets(command.replace(WORLD, shlex.quote(str(root))), pins=None)
        ]

    return toolsets
