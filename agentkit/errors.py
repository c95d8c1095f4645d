"""Errors of three kinds: mistakes of the caller, failed runs, and signals that a tool raises.

Every error that ends a run carries the work done so far, so that it is not lost. Errors of this package declare
`state`, `messages` and `usage`; any other error (from a listener or an output validator) is raised unchanged, with
the same three attributes attached. Reaching a limit is not an error: the run ends with a result whose status is
"limit_reached" (`agentkit.limits`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.approvals.pending import PendingCall
    from agentkit.messages import ModelMessage
    from agentkit.run.state import RunState
    from agentkit.usage import RunUsage


class AgentKitError(Exception):
    """Base of every error of this package."""

    state: RunState | None = None
    """State of the run that the error ended; None if it ended no run."""
    messages: tuple[ModelMessage, ...] = ()
    """Conversation of that run up to the failure."""
    usage: RunUsage | None = None
    """Requests, tool calls and tokens of that run."""


class UserError(AgentKitError):
    """Mistake of the developer; the message says what to change."""


class NoOutputError(UserError):
    """`RunResult.output` was read of a run that ended without an output; the message names the status."""


class AgentRunError(AgentKitError):
    """A run failed. The work done so far is attached."""


class ModelError(AgentRunError):
    """A model could not be reached or used."""

    retryable: bool = False
    """True if the same request may succeed later, or with another model."""


class ModelTimeout(ModelError):
    """A model did not answer within its total or idle deadline."""

    retryable = True


class ModelConnectionError(ModelError):
    """The connection failed, or broke before the reply was complete."""

    retryable = True


class ModelHTTPError(ModelError):
    """A server answered with an error status."""

    def __init__(self, message: str, *, status_code: int, body: str = "", retryable: bool = False) -> None:
        """Store the status and the (bounded) body with the message."""
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword arguments."""
        return _rebuild_http_error, (str(self), self.status_code, self.body, self.retryable)


def _rebuild_http_error(message: str, status_code: int, body: str, retryable: bool) -> ModelHTTPError:
    return ModelHTTPError(message, status_code=status_code, body=body, retryable=retryable)


class ContextWindowExceeded(ModelError):
    """The conversation no longer fits the model's context window."""


class UnexpectedModelBehavior(ModelError):
    """The model's reply broke the protocol, or stayed invalid after all retries."""


class ToolExecutionError(AgentRunError):
    """A tool with `on_error="raise"` raised an error that it did not declare; the original is the `__cause__`."""


class MCPConnectionError(AgentRunError):
    """An MCP server could not be started or reached, or went away."""

    def __init__(self, message: str, *, stderr: str = "") -> None:
        """Store the last lines of a child process's stderr with the message; a traceback shows them, too."""
        super().__init__(message)
        self.stderr = stderr
        if stderr:
            self.add_note(f"The server's stderr ends with:\n{stderr}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword argument."""
        return _rebuild_connection_error, (str(self), self.stderr)


def _rebuild_connection_error(message: str, stderr: str) -> MCPConnectionError:
    return MCPConnectionError(message, stderr=stderr)


class MCPAuthorizationRequired(MCPConnectionError):
    """An MCP server wants a login that is missing, has ended or was refused; the message says how to log in."""

    def __init__(self, message: str, *, url: str = "") -> None:
        """Store the URL of the server, without its query, with the message."""
        super().__init__(message)
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword argument."""
        return _rebuild_authorization_required, (str(self), self.url)


def _rebuild_authorization_required(message: str, url: str) -> MCPAuthorizationRequired:
    return MCPAuthorizationRequired(message, url=url)


class MCPRequestError(AgentRunError):
    """An MCP server refused a request for a resource, prompt or completion, or its answer cannot be used."""


class ToolDefinitionError(AgentRunError):
    """A server's tool definitions are unusable: too many, colliding, or with a rejected schema."""


class ToolDefinitionChanged(ToolDefinitionError):
    """A tool definition differs from its pinned version; the message shows the difference."""

    def __init__(self, message: str, tool_names: tuple[str, ...] = ()) -> None:
        """Store the names of the tools with the message."""
        super().__init__(message)
        self.tool_names = tool_names

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the names."""
        return type(self), (str(self), self.tool_names)


class CheckpointError(AgentRunError):
    """A stored run cannot be used: unknown, damaged, of another version, or held by another process."""


class ModelRetry(Exception):
    """Raised by a tool or output function: the model reads the message and may try again."""


class ApprovalRequired(Exception):
    """Raised by a tool before it has any effect: this call requires approval. The message is the reason."""

    pending: PendingCall | None = None
    """The waiting call, if it is not the tool's own call."""


class NoRequestLeft(Exception):
    """Raised when a planner or a summary asks a model and the run's limits allow only the last answer."""


class ToolFailed(Exception):
    """Raised by a tool: a permanent failure; the model sees the message and should not repeat the call."""


def attach_run(error: Exception, state: RunState) -> None:
    """Attach state, messages and usage to an error that ended a run; foreign errors keep their own attributes."""
    for name, value in (("state", state), ("messages", state.messages), ("usage", state.usage)):
        if isinstance(error, AgentKitError) or not hasattr(error, name):
            setattr(error, name, value)
