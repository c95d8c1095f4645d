"""Runs one case: a new folder, the real servers as child processes, an agent, and the state after the run.

Starting a server takes about 0.65 s of CPU, mostly for importing `mcp`; a task's two servers start in parallel.
Each server serves one folder, so none is reused for another case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from agentkit.agent import Agent
from agentkit.limits import UsageLimits
from agentkit.mcp import MCPToolset
from agentkit.models.base import Model, ModelSettings
from agentkit.tools.toolset import Toolset
from evals.case import Case, Run
from evals.harness.solving import run_agent
from evals.harness.suite import Solver
from evals.tool_use.executed.disk import DATABASE, build, observe
from evals.tool_use.executed.playing import model_for
from evals.tool_use.executed.task import Server, task_of
from evals.tool_use.executed.world import world_to_json

INSTRUCTIONS = (
    "You work on a user's files and database with tools. Do what is asked and change nothing else. Then answer in "
    "one short sentence with only what was asked."
)
LIMITS = UsageLimits(request_limit=10, tool_calls_limit=16)
"""Twice the requests of the longest reference with its answer, and four times its calls; the rest is room for
exploration and mistakes. An answer in the last request, forced by the limit, does not count."""
MAX_TOKENS = 512
"""Maximum tokens of one response, unless the settings say otherwise; the longest reference call has about 150."""
TOOL_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 120.0
"""Long, because a server that starts slowly on a busy machine is not a failure of the model."""

USER_ZONE = "Europe/Berlin"
"""Time zone of the user; the same on every machine."""

Connect = Callable[[Server, Path], Toolset]
FindModel = Callable[[Case, Model], Model]


def child_server(server: Server, folder: Path, *, write: bool = True) -> Toolset:
    """Return one of this project's servers as a child process; `write=False` removes its modifying tools."""
    changing = ("--write",) if write else ()
    options = {
        "filesystem": (folder, *changing),
        "sqlite": (folder / DATABASE, *changing),
        "time": ("--zone", USER_ZONE),
    }
    module = f"mcp_servers.{server}"
    return MCPToolset.stdio(
        "python", "-m", module, *options[server], id=server, connect_timeout_s=CONNECT_TIMEOUT_S, pins=None
    )


def solver(
    connect: Connect = child_server,
    *,
    instructions: str | None = INSTRUCTIONS,
    limits: UsageLimits = LIMITS,
    find_model: FindModel = model_for,
) -> Solver:
    """Return a solver.

    Args:
        connect: Returns the toolset of a server for a folder.
        instructions: System prompt of the agent.
        limits: Usage limits of each run.
        find_model: Returns the model that plays a case: the model under test, or a script.
    """

    async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
        task = task_of(case)
        with TemporaryDirectory(prefix="mcp-task-") as name:
            folder = Path(name)
            await anyio.to_thread.run_sync(build, task.start, folder)
            toolsets = [connect(server, folder) for server in task.servers]
            agent = Agent(
                find_model(case, model),
                toolsets=toolsets,
                instructions=instructions,
                limits=limits,
                settings=ModelSettings(max_tokens=MAX_TOKENS).merged(settings),
                tool_timeout_s=TOOL_TIMEOUT_S,
                taint_rule=False,  # only the model is measured
            )
            async with AsyncExitStack() as stack:
                await _enter_side_by_side(stack, toolsets)
                run = await run_agent(case, agent)
            # Read only after the servers have ended, because an interrupted call may write until then.
            world = await anyio.to_thread.run_sync(observe, task.start, folder)
        return replace(run, observed=world_to_json(world))

    return solve


async def _enter_side_by_side(stack: AsyncExitStack, toolsets: Sequence[Toolset]) -> None:
    """Enter all toolsets in parallel; `stack` exits the entered ones, even if another fails."""
    failures: list[Exception] = []

    async def enter(toolset: Toolset) -> None:
        try:
            await stack.enter_async_context(toolset)
        except Exception as error:  # raised below, after the others have finished
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for toolset in toolsets:
            tasks.start_soon(enter, toolset)
    if failures:
        raise failures[0]
