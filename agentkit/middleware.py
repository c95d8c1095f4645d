"""Middleware: the application's own code around each model request and each execution of a tool.

A middleware may change a request, send it again, answer without sending it, or change the reply. It never replaces
the rules of the run. A reply passes the reading of calls and the guardrails. A call has passed its guardrails and
its approval before middleware sees it, and its arguments are checked again if middleware changes them.

The first middleware of an agent is the outermost. The pattern is the one of ASGI and of LangChain's
`wrap_model_call` and `wrap_tool_call`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentkit.context import RunContext
from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.models.base import ModelRequestParameters
from agentkit.tools.tool import ToolOutput


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A request to the model; change it with `dataclasses.replace`."""

    messages: tuple[ModelMessage, ...]
    """Conversation as it is sent: the instructions first, after compaction and history processors."""
    parameters: ModelRequestParameters
    """Tools, settings and the form of the answer."""
    context: RunContext[Any]
    """Context of the run; changes of it are ignored."""


CallModelNext = Callable[[ModelCall], Awaitable[ModelResponse]]
"""Sends a request. Each call is a request of the run: it counts in the usage and against the limits.

Raises `NoRequestLeft` if the limits allow no further request in this step.
"""
CallToolNext = Callable[[ToolCallPart], Awaitable[ToolOutput]]
"""Runs a call. Raises what the tool raises, and `ModelRetry` if changed arguments are invalid."""


class Middleware:
    """Base class: a subclass overrides one method or both. One object may serve several runs at once."""

    async def model_request(self, request: ModelCall, call_next: CallModelNext) -> ModelResponse:
        """Return the reply to a request of the conversation.

        An uncaught `NoRequestLeft` is no error of the run: the model's last reply in this step is used. Requests
        of planners and summaries do not pass middleware.
        """
        return await call_next(request)

    async def tool_call(self, call: ToolCallPart, context: RunContext[Any], call_next: CallToolNext) -> ToolOutput:
        """Return the result of a call, within its timeout. Calls made by code pass here too.

        Only the arguments may be changed. If the changed call requires an approval that was not given, the run
        fails with `UserError`.
        """
        return await call_next(call)
