"""A tool that the runtime can call.

Every source of tools (functions, MCP servers, other agents) yields the same flat `Tool`: a definition, a validator
and a coroutine function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentkit.tools.definition import ToolDefinition

if TYPE_CHECKING:
    from agentkit.context import RunContext


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """Result of a call: the text for the model and the value behind it."""

    content: str
    data: Any = None
    is_error: bool = False
    timed_out: bool = False
    """True if the tool's own timeout ended the call, which is then reported as "timeout"."""


ToolCall = Callable[[dict[str, Any], "RunContext[Any]"], Awaitable[Any]]
"""Runs a tool on validated arguments. Returns a `ToolOutput` or any JSON-serialisable value; may raise
`ModelRetry`, `ApprovalRequired` or `ToolFailed`."""


ApprovalPredicate = Callable[[dict[str, Any], "RunContext[Any]"], "bool | str | Awaitable[bool | str]"]
"""Decides whether a call with these arguments requires approval; a returned text is the reason."""
ApprovalRule = bool | ApprovalPredicate
"""Approval for every call (True), for none (False), or as a function or coroutine function decides."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be run."""

    definition: ToolDefinition
    call: ToolCall
    validate: Callable[[str], dict[str, Any]]
    """Parses the JSON text of the arguments into values for `call`; raises `ModelRetry` with the errors."""
    timeout_s: float | None = None
    """Seconds before a call times out; None uses the agent's default."""
    sequential: bool = False
    """True if the call is a barrier: no other call of the same response runs beside it."""
    max_retries: int | None = None
    """Maximum number of consecutive retries after `ModelRetry`; None uses the agent's default."""
    requires_approval: ApprovalRule = False
    """Approval rule for calls: True, False, or a function of the validated arguments."""
    is_untrusted: bool = False
    """True if the results are untrusted: anyone may have written them."""
    is_consequential: bool = False
    """True if the tool is destructive or open-world by its annotations; see `agentkit.guardrails.TaintRule`."""
    is_repeatable: bool = False
    """True if the tool is idempotent, according to a trusted source; the claim of an untrusted MCP server does not
    count. After a crash such a call runs again if its outcome is unknown."""
    allows_repeats: bool = False
    """True if repeated equal calls all run, for example for dice, or for an effect that is wanted each time. See
    `agentkit.run.repeated_calls`."""

    @property
    def name(self) -> str:
        """The name that the model calls."""
        return self.definition.name

    def renamed(self, name: str) -> Tool:
        """Return the same tool under another name."""
        return replace(self, definition=replace(self.definition, name=name))
