"""MCP servers as the worlds of episodes: a policy in training acts on real tools, in a separate copy per episode.

A world is a folder. Each episode gets a copy of it, and servers that are started on that copy, so a policy's
changes are discarded and no other episode sees them. Starting a server takes about a second. If a server's state
is only in the folder, as with the house servers for files and SQLite, `reuse` keeps the servers and restores the
folder instead.

A sampler is not a coroutine, so the servers run on an event loop in a separate thread.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import BaseModel, Field
from pydantic_core import to_json

from agentkit.cli.options import mcp_toolsets
from agentkit.context import RunContext
from agentkit.errors import AgentKitError, AgentRunError, ModelRetry, ToolFailed
from agentkit.messages import text_of
from agentkit.specialise.live import LiveTool, connected, fingerprint_of
from agentkit.specialise.world_state import folder_state
from agentkit.tools.tool import ToolOutput
from agentkit.tools.toolset import Toolset
from modelstack.errors import UserError
from modelstack.reasoning.tasks.episode_golds import WorldGold
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import CallRefused, EpisodeTools, ToolFailure
from modelstack.recipe_file import checked_recipe

WORLD = "{world}"
"""Placeholder, in a server's command, for the episode's copy of the folder."""


class EpisodeServers(BaseModel, frozen=True, extra="forbid"):
    """Servers of an episode, and the folder that they work on."""

    servers: tuple[str, ...] = Field(min_length=1)
    """Commands as for `--mcp`, such as `agentkit-mcp filesystem {world} --write`."""
    world: str
    """Template folder; never written to."""
    allow: tuple[str, ...] = ()
    """Names of the tools that a policy may call; empty: all."""
    ignore: tuple[str, ...] = (".trash",)
    """Names of folders excluded from the state; the files server puts deleted files there."""
    reuse: bool = False
    """True: servers are kept between episodes; only for servers without state outside the folder."""
    call_timeout_s: float = Field(default=10.0, gt=0)
    start_timeout_s: float = Field(default=60.0, gt=0)

    def toolsets(self, root: Path) -> list[Toolset]:
        """Return toolsets for the servers on a copy of the folder, not yet started.

        Raises:
            UserError: A command cannot be parsed.
        """
        return [
            toolset
            for command in self.servers
            for toolset in mcp_toolsets(
                command.replace(WORLD, shlex.quote(str(root))),
                pins=None,  # a command with the path of a temporary copy never recurs
                call_timeout_s=self.call_timeout_s,
                connect_timeout_s=self.start_timeout_s,
            )
        ]


@dataclass(frozen=True, slots=True)
class _Stage:
    """Started servers and the folder that they work on."""

    root: Path
    tools: tuple[LiveTool, ...]
    stack: ExitStack


class ServerWorlds:
    """Context manager that opens worlds; leaving it stops everything. Not thread-safe."""

    def __init__(
        self, settings: EpisodeServers, toolsets: Callable[[Path], Sequence[Toolset]] | None = None
    ) -> None:
        """Check the template folder; nothing is started.

        Args:
            settings: Servers, folder and limits.
            toolsets: Builds the toolsets on a copy of the folder, instead of those of `settings`.

        Raises:
            UserError: The folder is missing, or contains a link, which would lead from a copy to the original.
        """
        self._settings, self._template = settings, Path(settings.world)
        self._toolsets = toolsets or settings.toolsets
        if not self._template.is_dir():
            raise UserError(f"world {settings.world!r} is no folder; name one, of which each episode gets a copy.")
        if link := next((path for path in self._template.rglob("*") if path.is_symlink()), None):
            raise UserError(
                f"world {settings.world!r} has a link in it, {link.name!r}: put the file itself there."
            )
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._idle: list[_Stage] = []
        self._fingerprint: str | None = None
        self._shown: tuple[LiveTool, ...] = ()

    def __enter__(self) -> Self:
        """Start the event loop."""
        self._portal = self._stack.enter_context(start_blocking_portal())
        return self

    def __exit__(self, *error: object) -> None:
        """Stop all servers, then the loop."""
        try:
            while self._idle:
                self._idle.pop().stack.close()
        finally:
            self._portal = None
            self._stack.close()

    def prepared(self, task: PolicyTask) -> PolicyTask:
        """Return a task with the servers' tools, and with a gold prepared for judging outcomes.

        Raises:
            UserError: The task has tools of its own, or a gold call is refused.
        """
        if task.tools:
            raise UserError(f"task {task.item.id!r} brings tools; here it is asked with those of the servers.")
        if not self._shown:
            with self.open(task):
                pass
        gold = task.item.gold
        if isinstance(gold, WorldGold):
            gold = gold.made_in(self.open(task), task.item.id)
        shown = tuple(tool.shown for tool in self._shown)
        return replace(task, tools=shown, item=replace(task.item, gold=gold))

    def open(self, task: PolicyTask) -> AbstractContextManager[EpisodeTools]:
        """Return a world for one episode.

        Raises:
            UserError: A server cannot be started, or offers other tools than before.
        """
        return self._opened()

    @contextmanager
    def _opened(self) -> Generator[EpisodeTools]:
        stage = self._idle.pop() if self._idle else self._started()
        is_kept = False
        try:
            yield _StageTools(stage, self._loop, self._settings)
            if self._settings.reuse:
                with suppress(OSError):  # a world that cannot be restored is not reused
                    _put_back(self._template, stage.root)
                    is_kept = True
        finally:
            if is_kept:
                self._idle.append(stage)
            else:
                stage.stack.close()

    @property
    def _loop(self) -> BlockingPortal:
        if self._portal is None:
            raise UserError("worlds of servers are opened inside `with ServerWorlds(...) as worlds:`.")
        return self._portal

    def _started(self) -> _Stage:
        loop = self._loop
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="episode-", ignore_cleanup_errors=True))
            root = Path(folder) / "world"
            shutil.copytree(self._template, root)
            try:
                live = stack.enter_context(loop.wrap_async_context_manager(connected(self._toolsets(root))))
            except AgentKitError as error:
                raise UserError(f"the servers of an episode cannot be used: {error}") from error
            stage = _Stage(root, self._allowed(live), stack.pop_all())
        try:
            self._check_tools(stage)
        except UserError:
            stage.stack.close()
            raise
        return stage

    def _allowed(self, live: Sequence[LiveTool]) -> tuple[LiveTool, ...]:
        allow = self._settings.allow
        if unknown := sorted(set(allow) - {tool.name for tool in live}):
            raise UserError(f"allow names {unknown}; the servers offer {sorted(tool.name for tool in live)}.")
        found = tuple(tool for tool in live if not allow or tool.name in allow)
        if asking := [tool.name for tool in found if tool.runnable.requires_approval is not False]:
            raise UserError(
                f"{asking} ask somebody before they run, and nobody is there: leave them out by allow."
            )
        return found

    def _check_tools(self, stage: _Stage) -> None:
        fingerprint = fingerprint_of(stage.tools)
        if self._fingerprint is None:
            self._fingerprint, self._shown = fingerprint, stage.tools
        elif fingerprint != self._fingerprint:
            raise UserError(
                "the servers offer other tools than when they were first started: a policy would be "
                "asked with tools that are not there."
            )


class _StageTools:
    """The tools of one episode."""

    def __init__(self, stage: _Stage, loop: BlockingPortal, settings: EpisodeServers) -> None:
        self._root, self._loop, self._settings = stage.root, loop, settings
        self._tools = {tool.name: tool for tool in stage.tools}

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        if name not in self._tools:
            raise CallRefused(f"There is no tool {name!r}.")
        return self._loop.call(_performed, self._tools[name], arguments, self._settings.call_timeout_s)

    def state(self) -> Any:
        return folder_state(self._root, frozenset(self._settings.ignore))


async def _performed(tool: LiveTool, arguments: Mapping[str, Any], timeout_s: float) -> str:
    """Perform a call like an agent's runner, with the same error texts."""
    try:
        checked = tool.runnable.validate(json.dumps(dict(arguments), ensure_ascii=False))
        with anyio.move_on_after(timeout_s):
            given = await tool.runnable.call(checked, RunContext(None))
            if not isinstance(given, ToolOutput):
                return given if isinstance(given, str) else to_json(given).decode()
            if given.is_error:
                raise ToolFailure(text_of(given.content))
            return text_of(given.content)
    except ModelRetry as signal:
        raise CallRefused(str(signal)) from signal
    except (ToolFailed, AgentRunError) as error:
        raise ToolFailure(str(error)) from error
    raise ToolFailure(f"Timed out after {timeout_s:g} s; the call may or may not have taken effect.")


def _put_back(template: Path, folder: Path) -> None:
    """Restore a folder; folders of the template are kept and not recreated, as servers hold them open."""
    for path in folder.iterdir():
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and (template / path.name).is_dir():
            continue
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    for original in template.iterdir():
        path = folder / original.name
        if original.is_dir():
            path.mkdir(exist_ok=True)
            _put_back(original, path)
        else:
            shutil.copy2(original, path)


@contextmanager
def server_worlds(options: Mapping[str, Any]) -> Generator[ServerWorlds]:
    """Open worlds from a recipe's table; `modelstack.reasoning` finds this function by its entry point.

    Raises:
        UserError: The table does not fit `EpisodeServers`, or its folder is missing.
    """
    with ServerWorlds(checked_recipe(EpisodeServers, dict(options))) as worlds:
        yield worlds
