"""A tool that the runtime can call.

Every source of tools (functions, MCP servers, other agents) yields the same flat `Tool`: a definition, a validator
and a coroutine function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentkit.errors import UserError
from agentkit.messages import Content
from agentkit.tools.definition import ToolAnnotations, ToolDefinition

if TYPE_CHECKING:
    from agentkit.context import RunContext


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """Result of a call: the text, or text and files, for the model and the value behind it."""

    content: Content
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

OnToolError = Literal["tell", "raise"]
"""Effect of an exception that a tool did not declare: the model reads a failed result, or the run ends."""
ON_TOOL_ERROR: tuple[OnToolError, ...] = get_args(OnToolError)


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
    on_error: OnToolError | None = None
    """Effect of an undeclared exception; None uses the agent's `on_tool_error`."""
    requires_approval: ApprovalRule = False
    """Approval rule for calls: True, False, or a function of the validated arguments."""
    is_untrusted: bool = False
    """True if the results are untrusted: anyone may have written them."""
    untrusted_if: Callable[[str], bool] | None = None
    """Decides by the JSON text of a call's arguments whether its result is untrusted, for a tool with sources of
    both kinds. It must not block; it is asked after the call, and again after a restart."""
    is_consequential: bool = False
    """True if the tool is destructive or open-world by its annotations; see `agentkit.guardrails.TaintRule`."""
    is_repeatable: bool = False
    """True if the tool is idempotent, according to a trusted source; the claim of an untrusted MCP server does not
    count. After a crash such a call runs again if its outcome is unknown."""
    is_external: bool = False
    """True if the application runs the calls; see `Tool.external`."""
    allows_repeats: bool = False
    """True if repeated equal calls all run, for example for dice, or for an effect that is wanted each time. See
    `agentkit.run.repeated_calls`."""
    defer_loading: bool = False
    """True if the definition is sent to the model only once a search has found the tool; see
    `agentkit.tools.tool_search`."""

    @classmethod
    def external(
        cls,
        name: str,
        description: str,
        parameters_json_schema: Mapping[str, Any],
        *,
        annotations: ToolAnnotations = ToolAnnotations(),
        requires_approval: ApprovalRule = False,
        untrusted_output: bool = False,
        retries: int | None = None,
    ) -> Tool:
        """Return a tool whose calls the application runs, in this process or elsewhere, now or days later.

        A call ends the run with status "needs_results", once its guardrails and its approval allow it. The
        application runs the calls in `result.pending` (kind "external") and continues the run with their results:
        `agent.resume(result.state, [pending.settle(content)])`. The options are those of `agentkit.tool`.

        Raises:
            UserError: the schema is not the schema of an object.
            ToolDefinitionError: the schema cannot be used.
        """
        from agentkit.tools.json_schema import compile_schema

        schema: dict[str, Any] = {"type": "object", "properties": {}, **parameters_json_schema}
        if schema["type"] != "object":
            raise UserError(f"tool {name!r}: its parameters have type {schema['type']!r}; give an object schema.")
        return cls(
            definition=ToolDefinition(name, description, schema, annotations=annotations),
            call=_not_called,
            validate=compile_schema(schema, name=f"tool {name!r}").arguments,
            max_retries=retries,
            requires_approval=requires_approval,
            is_untrusted=untrusted_output,
            is_consequential=bool(annotations.destructive or annotations.open_world),
            is_external=True,
        )

    def taints(self, arguments: str) -> bool:
        """Return whether the result of a call with these arguments is untrusted."""
        return self.is_untrusted or (self.untrusted_if is not None and self.untrusted_if(arguments))

    @property
    def name(self) -> str:
        """The name that the model calls."""
        return self.definition.name

    def renamed(self, name: str) -> Tool:
        """Return the same tool under another name."""
        return replace(self, definition=replace(self.definition, name=name))


async def _not_called(arguments: dict[str, Any], context: RunContext[Any]) -> Any:
    raise AssertionError("the application runs the calls of an external tool; see `agentkit.run.turn`")
