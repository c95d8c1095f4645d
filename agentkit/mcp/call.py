"""A tool call over a connection: time limit, progress, lost connections, safe repeats.

A call in flight when the server dies may or may not have taken effect. It is sent again only if the toolset
is trusted and the tool says that it is read-only or idempotent; an untrusted server's hint is only a claim. A
call that provably did not reach the server is sent again in any case.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anyio
from pydantic import ValidationError

from agentkit.context import RunContext
from agentkit.mcp.call_clocks import CallClock
from agentkit.mcp.connection import Connection, is_closed
from agentkit.mcp.delivery import Delivery, delivery
from agentkit.mcp.listing import ServerTool
from agentkit.mcp.results import bounded, tool_output
from agentkit.tools.tool import ToolOutput

if TYPE_CHECKING:
    from mcp import Client
    from mcp.shared.dispatcher import ProgressFnT
    from mcp_types import CallToolResult

Trust = Literal["untrusted", "trusted"]

MAX_PROGRESS_CHARS = 500
"""Characters of one progress message; each becomes a run event and a trace line."""

MAX_REPORTS = 10_000
"""Reports of progress that one call passes on; a server that sends more is read on and told nothing."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of all calls; see `MCPToolset`."""

    timeout_s: float
    max_total_s: float
    result_limit: int
    trust: Trust


class _ConnectionLost(Exception):
    """The connection ended before the answer came."""


class _Undelivered(Exception):
    """The request provably did not reach the server."""


async def call_tool(
    connection: Connection,
    tool: ServerTool,
    arguments: dict[str, Any],
    context: RunContext[Any],
    options: CallOptions,
    verify: Callable[[], Awaitable[Client | None]],
) -> ToolOutput:
    """Call `tool` and return its output; a failure on the server is an error output for the model.

    The time limit covers the whole call, reconnects included. Its clock stops while a person is asked, and starts
    again when the server reports progress.

    `verify` returns the client if the server still defines the tool as the model saw it, else None. It runs
    before every attempt, and therefore after every reconnect.

    Raises:
        MCPAuthorizationRequired: the server refused the login, and no person is there to log in.
        MCPConnectionError: the server cannot be reached or reconnected.
    """
    with connection.clocks.limited(options.timeout_s, options.max_total_s) as clock:
        report = _reporter(context, clock)
        return await _call(connection, tool, arguments, report, options, verify)
    return ToolOutput(
        f"Timed out after {timed_out_after(clock, options)}; the call may or may not have taken effect.",
        is_error=True,
        timed_out=True,
    )


def timed_out_after(clock: CallClock, options: CallOptions) -> str:
    """Return the limit that ended a call, in words."""
    if clock.has_restarted and clock.was_total:
        return f"{options.max_total_s:g} s in all (max_total_timeout_s)"
    return f"{options.timeout_s:g} s{' without progress' if clock.has_restarted else ''}"


def _reporter(context: RunContext[Any], clock: CallClock) -> ProgressFnT:
    """Return the function that receives the progress of one call; only growing progress gives it more time."""
    furthest, n_reports = -math.inf, 0

    async def report(progress: float, total: float | None, message: str | None) -> None:
        nonlocal furthest, n_reports
        if progress > furthest:
            furthest = progress
            clock.restart()
        n_reports += 1
        if n_reports <= MAX_REPORTS:
            said = bounded(message, MAX_PROGRESS_CHARS, clean=True) if message else message
            context.report_progress(progress, total, said)

    return report


async def _call(
    connection: Connection,
    tool: ServerTool,
    arguments: dict[str, Any],
    report: ProgressFnT,
    options: CallOptions,
    verify: Callable[[], Awaitable[Client | None]],
) -> ToolOutput:
    for is_last in (False, True):
        client = await verify()
        if client is None:
            return _error("The server has changed or removed this tool since it was listed. Look at it again.")
        try:
            return await _send(connection, client, tool, arguments, report, options)
        except _Undelivered:
            connection.lose(client)
            if is_last:
                return _error("The server could not be reached; the call has not taken effect.")
        except _ConnectionLost:
            connection.lose(client)
            if not is_repeatable(tool, options):
                break
    reason = f": {connection.fault}" if connection.fault else ""
    return _error(f"The connection to the server was lost{reason}; the call may or may not have taken effect.")


def is_repeatable(tool: ServerTool, options: CallOptions) -> bool:
    """Return whether a call may be repeated without approval."""
    hints = tool.definition.annotations
    return options.trust == "trusted" and bool(hints.read_only or hints.idempotent)


async def _send(
    connection: Connection,
    client: Client,
    tool: ServerTool,
    arguments: dict[str, Any],
    report: ProgressFnT,
    options: CallOptions,
) -> ToolOutput:
    from mcp import MCPError
    from mcp.client import InputRequiredRoundsExceededError

    way = Delivery()
    token = delivery.set(way)
    try:
        # mcp's own limit is disabled: its clock would run while a person is asked.
        result: CallToolResult = await client.call_tool(
            tool.definition.name, arguments, read_timeout_seconds=math.inf, progress_callback=report
        )
    except MCPError as error:
        if way.refused is not None:
            raise copy(way.refused) from error  # a run attaches its state to its error
        if way.undelivered:
            raise _Undelivered from error
        if is_closed(error):
            raise _ConnectionLost from error
        return _error(f"The server refused the call (error {error.code}): {connection.said(error)}")
    except anyio.ClosedResourceError as error:
        raise _ConnectionLost from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return _error(f"The server's answer is not valid MCP at {where!r}: {first['msg']}.")
    except InputRequiredRoundsExceededError:
        return _error("The server kept asking for input without coming to a result.")
    except RuntimeError as error:
        if not connection.has_lost(client):
            raise
        raise _ConnectionLost from error  # mcp: "Client must be used within an async context manager"
    finally:
        delivery.reset(token)
    return tool_output(
        result,
        output_check=tool.output,
        limit=options.result_limit,
        clean=options.trust == "untrusted",
    )


def _error(text: str) -> ToolOutput:
    return ToolOutput(text, is_error=True)
