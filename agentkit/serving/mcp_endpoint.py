"""The agent as an MCP server over Streamable HTTP: one tool that gives it a task and returns its answer.

Calls of the agent's tools are reported as progress. A call that waits for an approval is a question to the person
at the client (elicitation); a client without questions is told where a person can decide, because a model must not
approve by calling a tool.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field

from agentkit.approvals.pending import Decision, PendingCall
from agentkit.events import RunFailedEvent, ToolCallEvent
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import end_in
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import WAITING, AgentService
from agentkit.serving.threads import cancelled_if_left, failed, output_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette
    from starlette.types import Scope

logger = logging.getLogger(__name__)

TOOL = "ask"


class Approval(BaseModel):
    """Answer of a person to a call that waits."""

    approve: bool = Field(description="Whether the call may run.")


class Answer(BaseModel):
    """Result of a run."""

    run_id: str
    status: str
    answer: str
    """The output as text; JSON if it is not text."""


def mcp_server(service: AgentService, owner_of: Callable[[Mapping[str, str]], str]) -> MCPServer:
    """Return an MCP server with the tool; `owner_of` returns the client's name from the headers of a request."""
    with _same_logging():
        server = MCPServer(name=service.agent_name or service.name)

    @server.tool(name=TOOL)
    async def ask(
        task: Annotated[str, Field(min_length=1, description="What the agent is to do or to answer.")],
        context: Context[Any, Any],
        session: Annotated[
            str | None, Field(max_length=200, description="Conversation to continue; none: a new one.")
        ] = None,
    ) -> Answer:
        """Give the agent a task and wait for its answer."""
        try:
            owner = owner_of(context.headers or {})
            run_id = await service.submit(RunRequest(task, session), owner)
            async with cancelled_if_left(service, run_id, owner):
                return await _answered(service, run_id, owner, context)
        except RequestRefused as error:
            raise ToolError(error.message) from error  # told to the client; other errors are only logged

    return server


@contextmanager
def _same_logging() -> Generator[None]:
    """Undo the set-up of the root logger by `MCPServer`: logging belongs to the application."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def owned(scope: Scope, owner: str) -> Scope:
    """Return a request as that of a client: the SDK answers a session of another client as an unknown one."""
    return {**scope, "user": AuthenticatedUser(AccessToken(token="", client_id=owner, scopes=[]))}


def endpoint(server: MCPServer, max_bytes: int) -> Starlette:
    """Return the server as an application; hosts and origins are checked before it is asked."""
    checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return server.streamable_http_app(
        streamable_http_path="/", transport_security=checked, max_request_body_size=max_bytes
    )


async def _answered(service: AgentService, run_id: str, owner: str, context: Context[Any, Any]) -> Answer:
    """Follow a run to its end, asking about calls that wait.

    Raises:
        RequestRefused: The run failed.
    """
    n_calls = 0
    async for events in await service.follow(run_id, 0, owner):
        for event in (each.event for each in events):
            if isinstance(event, ToolCallEvent):
                n_calls += 1
                await context.report_progress(n_calls, message=f"calls {event.tool_name}")
        end = end_in(events)
        if isinstance(end, RunFailedEvent):
            raise failed(end)
        if end is not None and end.status in WAITING:
            stored, _ = await service.stored(run_id, owner)
            decisions = await _decisions(stored.state.pending, context)
            if decisions is None:
                where = f"/runs/{run_id}"
                text = (
                    f"A call waits for a person, who decides at {where}/decisions; the answer is then at {where}."
                )
                return Answer(run_id=run_id, status=end.status, answer=text)
            await service.decide(run_id, decisions, owner)
        elif end is not None:
            return Answer(run_id=run_id, status=end.status, answer=output_text(end.output))
    raise AssertionError("a run is followed until it ends")


async def _decisions(pending: tuple[PendingCall, ...], context: Context[Any, Any]) -> list[Decision] | None:
    """Ask the person about each call; None if the client asks nobody, or a call needs more than a yes or no."""
    capabilities = context.client_capabilities
    if (
        capabilities is None
        or capabilities.elicitation is None
        or any(each.kind != "approval" for each in pending)
    ):
        return None
    decisions: list[Decision] = []
    for call in pending:
        try:
            asked = await context.elicit(
                f"May {call.tool_name} run with {call.arguments}? ({call.reason})", Approval
            )
        except MCPError as error:
            logger.warning("the client did not take a question: %s", error)
            return None
        is_allowed = asked.action == "accept" and asked.data.approve
        decisions.append(call.approve() if is_allowed else call.deny("the person at the client did not allow it"))
    return decisions
