"""One case: a fresh folder, the real servers as child processes, an agent, and a look at what it left.

Starting a server takes about 0.65 s of CPU, nearly all of it for importing `mcp`; the children of a task that has
two are started side by side. They serve one folder each, so none outlives its case.
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
"""Twice the requests of the longest reference and its answer, four times its calls: room for looking around and
for mistakes. An answer in the last request, which the limit forces, does not count."""
MAX_TOKENS = 512
"""Of one response, unless the settings say otherwise; the longest reference call has about 150."""
TOOL_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 120.0
"""A server that starts slowly, because much else runs beside it, is no failure of the model."""

USER_ZONE = "Europe/Berlin"
"""Time zone of the user; the same on every machine."""

Connect = Callable[[Server, Path], Toolset]
FindModel = Callable[[Case, Model], Model]


def child_server(server: Server, folder: Path, *, write: bool = True) -> Toolset:
    """Return one of our servers as a child process, with its changing tools unless `write` is False."""
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
        connect: Reaches a server.
        instructions: System prompt of the agent.
        limits: Bounds of each run.
        find_model: Returns the model that plays a case: the one under test, or a script.
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
                taint_rule=False,  # the model alone is measured
            )
            async with AsyncExitStack() as stack:
                await _enter_side_by_side(stack, toolsets)
                run = await run_agent(case, agent)
            # Only now: a call that was cut off may have written until its server ended.
            world = await anyio.to_thread.run_sync(observe, task.start, folder)
        return replace(run, observed=world_to_json(world))

    return solve


async def _enter_side_by_side(stack: AsyncExitStack, toolsets: Sequence[Toolset]) -> None:
    """Enter the toolsets at once; those that came up are left again with `stack`, also if another did not."""
    failures: list[Exception] = []

    async def enter(toolset: Toolset) -> None:
        try:
            await stack.enter_async_context(toolset)
        except Exception as error:  # raised below, once the others have settled
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for toolset in toolsets:
            tasks.start_soon(enter, toolset)
    if failures:
        raise failures[0]
