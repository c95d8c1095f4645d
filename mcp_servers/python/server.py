"""The Python tools as a model sees them. Rules are in `policy.py`, the interpreter in `sandbox.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.failures import ToolFailure
from mcp_servers.long_calls import run_stoppable
from mcp_servers.python.policy import MAX_CODE_CHARS, Limits
from mcp_servers.python.results import Dropped, Ran
from mcp_servers.python.sandbox import Sandbox, Stop
from mcp_servers.strict import ADDS, strict_server, strict_tool

NAME = "agentkit-python"
INSTRUCTIONS = (
    "Runs short Python. Print what you want to read; the value of the last expression is shown as well. There are "
    "no files, no network and no packages; math, json, re, datetime and a few other modules can be imported."
)
FUNCTIONS = " The code can call these functions: {names}."
# Nothing outside the sandbox changes. Without concurrent use of the session, the same code gives the same result.
COMPUTES = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
# The effects of functions passed in by the embedding program are unknown here.
CALLS_OUT = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
)


class Python:
    """The tools."""

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        """Run code in `sandbox`."""
        self._sandbox = sandbox
        self._limits = limits

    async def run_python(
        self,
        code: Annotated[str, Field(max_length=MAX_CODE_CHARS, description="Python code.")],
        session: Annotated[
            str, Field(max_length=40, description="Keep variables under this name; empty: keep nothing.")
        ] = "",
    ) -> Ran:
        """Run Python code and show what it prints and its last value."""
        stop = Stop()
        outcome = await run_stoppable(partial(self._sandbox.run, code, session, stop), stop)
        if outcome.error:
            raise ToolFailure(Ran.of(outcome, session, self._limits).as_text())
        return Ran.of(outcome, session, self._limits)

    def drop_session(self, session: Annotated[str, Field(max_length=40)]) -> Dropped:
        """Forget the variables of a session."""
        self._sandbox.drop(session)
        return Dropped(sessions=self._sandbox.sessions)


def build_server(
    *, limits: Limits | None = None, functions: Mapping[str, Callable[..., Any]] | None = None
) -> Server[Any]:
    """Return the server; it can be passed to `mcp.Client` as it is.

    Args:
        limits: Limits of one snippet.
        functions: Functions that snippets may call, by name: the only way out of the sandbox. They run in this
            process, on a worker thread, with arguments from untrusted code, which the functions must check.
    """
    limits, functions = limits or Limits(), functions or {}
    sandbox = Sandbox(limits, functions)
    tools = Python(sandbox, limits)
    return strict_server(
        NAME,
        instructions=INSTRUCTIONS + (FUNCTIONS.format(names=", ".join(functions)) if functions else ""),
        tools=[
            strict_tool(tools.run_python, CALLS_OUT if functions else COMPUTES),
            strict_tool(tools.drop_session, ADDS),
        ],
        on_close=sandbox.close,
    )
