"""What a model is told of a tool, and the tool as the runner calls it.

Every source of tools (functions, MCP servers, other agents) yields the same flat `Tool`: a definition, a
validator and a coroutine. Annotations are the MCP hints; they inform, they never lower a policy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.context import RunContext


@dataclass(frozen=True, slots=True)
class ToolAnnotations:
    """MCP's hints about a tool's effects; None where nothing is said."""

    title: str | None = None
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """The part of a tool that is shown to a model."""

    name: str
    description: str
    parameters_json_schema: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}, "additionalProperties": False}
    )
    output_json_schema: Mapping[str, Any] | None = None
    annotations: ToolAnnotations = ToolAnnotations()
    warnings: tuple[str, ...] = ()
    """What was removed from this definition or is not enforced; for people, never shown to a model."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a call gave: the text for the model and the value behind it."""

    content: str
    data: Any = None
    is_error: bool = False


ToolCall = Callable[[dict[str, Any], "RunContext[Any]"], Awaitable[Any]]
"""Runs a tool on validated arguments. Returns a `ToolOutput` or any JSON-able value; may raise `ModelRetry` or
`ToolFailed`."""


ApprovalPredicate = Callable[[dict[str, Any], "RunContext[Any]"], "bool | str | Awaitable[bool | str]"]
"""Says for some arguments whether somebody must be asked; a text that it returns is the reason."""
ApprovalRule = bool | ApprovalPredicate
"""For every call, for none, or as a function, or coroutine function, says."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be run."""

    definition: ToolDefinition
    call: ToolCall
    validate: Callable[[str], dict[str, Any]]
    """JSON text of the arguments to the values that `call` takes; raises `ModelRetry` with what is wrong."""
    timeout_s: float | None = None
    """Seconds that one call may take; None takes the agent's default."""
    sequential: bool = False
    """A barrier: no other call of the same response runs beside it."""
    max_retries: int | None = None
    """How often the model may try again after `ModelRetry`; None takes the agent's default."""
    requires_approval: ApprovalRule = False
    """Whether somebody has to allow a call: always, or as a function of its validated arguments says."""
    is_untrusted: bool = False
    """Its results may have been written by anybody, and so may tell the model anything."""
    is_consequential: bool = False
    """It destroys or reaches out, as far as its annotations tell; see `agentkit.guardrails.TaintRule`."""
    is_repeatable: bool = False
    """Calling it twice is like calling it once, by the word of somebody who is believed; an MCP server that is not
    trusted only claims it. Such a call is made again where a crash left its outcome unknown."""

    @property
    def name(self) -> str:
        """The name that the model calls."""
        return self.definition.name

    def renamed(self, name: str) -> Tool:
        """Return the same tool under another name."""
        return replace(self, definition=replace(self.definition, name=name))
