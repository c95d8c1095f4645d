"""Chains of middleware: around the requests of one step, and around the execution of one call.

The chains keep the rules of the run. Every request that is really sent is counted, and a request beyond the limits
is refused. A call that waits for a decision waits, whatever middleware makes of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from agentkit.context import RunContext
from agentkit.errors import ApprovalRequired, CheckpointError, NoRequestLeft, UserError
from agentkit.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from agentkit.middleware import CallModelNext, CallToolNext, Middleware, ModelCall
from agentkit.models.base import OnDelta, TextDelta
from agentkit.models.prices import priced_request
from agentkit.run.budget import Budget
from agentkit.run.report import Report
from agentkit.run.request import Request
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState
from agentkit.tools.execution import as_output
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.usage import NO_COST, RequestUsage, RunUsage

Recheck = Callable[[ToolCallPart, Tool], Awaitable[ToolCallPart | ToolReturnPart]]
"""Returns a changed call after guardrails, or the answer of a blocked one. Raises `UserError` if it must wait."""


def around_model(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Return the middleware that overrides `model_request`."""
    return tuple(each for each in middleware if type(each).model_request is not Middleware.model_request)


def around_tools(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Return the middleware that overrides `tool_call`."""
    return tuple(each for each in middleware if type(each).tool_call is not Middleware.tool_call)


class StepRequests:
    """The requests of one step, sent through middleware."""

    def __init__(
        self,
        middleware: Sequence[Middleware],
        setup: RunSetup[Any, Any],
        request: Request,
        context: RunContext[Any],
        state: Callable[[], RunState],
        count: Callable[[RequestUsage, str], None],
        budget: Budget,
        report: Report | None,
    ) -> None:
        """Prepare the requests of the step that `request` begins; `count` adds a request to the state's usage."""
        self._middleware = middleware
        self._setup = setup
        self._request = request
        self._context = context
        self._state = state
        self._count = count
        self._budget = budget
        self._report = report
        self._n_sent = 0
        self._n_open = 0
        """Requests that have no reply yet; middleware may send several at once."""
        self._failure: Exception | None = None
        self.received: list[ModelResponse] = []
        """Replies of the model, in the order of their arrival."""

    async def reply(self, *, on_delta: OnDelta | None) -> ModelResponse:
        """Return the reply of the outermost middleware.

        Raises:
            Exception: the error of the model or of the middleware.
            UserError: middleware returned no response.
        """
        chain: CallModelNext = partial(self._sent, on_delta)
        for each in reversed(self._middleware):
            chain = _requested(each, chain)
        try:
            reply = await chain(ModelCall(tuple(self._request.messages), self._request.parameters, self._context))
        except NoRequestLeft:
            if self.received:
                return self.received[-1]
            if self._failure is not None:
                raise self._failure from None
            raise
        if on_delta is not None and not self._n_sent:  # a reader of the stream has seen nothing of this reply
            for part in reply.parts:
                if isinstance(part, TextPart):
                    on_delta(TextDelta(part.content))
        return reply

    def received_unless_only(self, reply: ModelResponse) -> tuple[ModelResponse, ...] | None:
        """Return the model's replies; None if `reply` is the only one, unchanged."""
        return None if len(self.received) == 1 and self.received[0] is reply else tuple(self.received)

    async def _sent(self, on_delta: OnDelta | None, call: ModelCall) -> ModelResponse:
        if self._n_sent:
            from anyio.lowlevel import checkpoint

            await checkpoint()  # middleware that retries for ever can be cancelled
            if (limit := self._limit()) is not None:
                raise NoRequestLeft(f"no request is left for another attempt of this step: {limit} is reached.")
        self._n_sent += 1
        self._n_open += 1
        if self._report is not None:
            self._report.request(self._state(), self._as_sent(call))
        used, name = RequestUsage(cost=NO_COST), ""  # a request that fails counts too
        try:
            parameters = replace(call.parameters, prices=self._setup.prices)  # middleware may have made its own
            response = await priced_request(self._setup.model, call.messages, parameters, on_delta=on_delta)
            used, name = response.usage, response.model_name
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._n_open -= 1
            self._count(used, name)
        self.received.append(response)
        return response

    def _as_sent(self, call: ModelCall) -> Request:
        same = self._request.is_conversation and call.messages == tuple(self._request.messages)
        return replace(self._request, messages=call.messages, parameters=call.parameters, is_conversation=same)

    def _limit(self) -> str | None:
        """Count one more request in the outer budgets; return the limit without room for it, or None."""
        usage = self._state().usage.plus(RunUsage(requests=self._n_open))
        limits, final = self._setup.limits, self._request.final
        if not final:
            reached = limits.reached(usage)
        else:
            most = limits.request_limit
            reached = None if most is None or usage.requests < most else f"request_limit={most}"
        return reached or self._budget.take_request(final=final)


def _requested(middleware: Middleware, call_next: CallModelNext) -> CallModelNext:
    async def request(call: ModelCall) -> ModelResponse:
        reply = cast("object", await middleware.model_request(call, call_next))
        if not isinstance(reply, ModelResponse):
            raise UserError(
                f"{type(middleware).__name__}.model_request returned {type(reply).__name__}; return a "
                f"ModelResponse, for example `await call_next(request)`."
            )
        return reply

    return request


def executed(
    middleware: Sequence[Middleware],
    recheck: Recheck,
    call: ToolCallPart,
    tool: Tool,
    arguments: dict[str, Any],
    context: RunContext[Any],
) -> Awaitable[ToolOutput]:
    """Run a call through middleware; `arguments` are the validated ones of `call`."""
    waits: ApprovalRequired | CheckpointError | None = None

    async def run(changed: ToolCallPart) -> ToolOutput:
        nonlocal waits
        if waits is not None:
            raise waits
        given = arguments
        if changed.arguments != call.arguments or _identity(changed) != _identity(call):
            if _identity(changed) != _identity(call):
                raise UserError(
                    f"middleware made call {call.tool_call_id!r} of {call.tool_name!r} into one of "
                    f"{changed.tool_name!r} with id {changed.tool_call_id!r}; only `arguments` may be changed."
                )
            checked = await recheck(changed, tool)
            if isinstance(checked, ToolReturnPart):
                return ToolOutput(checked.content, checked.data, is_error=True)
            given = tool.validate(checked.arguments)
        try:
            value = await tool.call(given, context)
        except (ApprovalRequired, CheckpointError) as error:
            waits = error
            raise
        return as_output(call, value)

    async def outermost() -> ToolOutput:
        chain: CallToolNext = run
        for each in reversed(middleware):
            chain = _called(each, context, chain)
        try:
            output = await chain(call)
        except Exception:
            if waits is not None:
                raise waits from None
            raise
        if waits is not None:
            raise waits
        return output

    return outermost()


def _called(middleware: Middleware, context: RunContext[Any], call_next: CallToolNext) -> CallToolNext:
    async def called(call: ToolCallPart) -> ToolOutput:
        output = cast("object", await middleware.tool_call(call, context, call_next))
        if not isinstance(output, ToolOutput):
            raise UserError(
                f"{type(middleware).__name__}.tool_call returned {type(output).__name__}; return a ToolOutput, "
                f"for example `await call_next(call)`."
            )
        return output

    return called


def _identity(call: ToolCallPart) -> tuple[str, str]:
    return call.tool_name, call.tool_call_id
