"""Sources of tools, and views on them: prefixed, filtered, renamed, requiring approval.

A toolset may do more than list tools: add to the agent's instructions and to the prompt of a new run, and hear of
the end of a run. Skills, memory, tool search and workspaces are toolsets.

A toolset is entered before a run and left after it (an MCP server connects on entry). `revision` changes with the
list of tools, so that the runner requests the list again only after a change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

from agentkit.approvals.rules import either_asks
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.messages import Addition, ModelMessage
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import ApprovalRule, Tool


class Toolset(ABC):
    """A source of tools with a lifecycle: enter, list, leave. It may be entered several times concurrently."""

    @property
    def id(self) -> str:
        """Name for errors and traces."""
        return type(self).__name__

    @property
    def revision(self) -> int:
        """Number that grows when the list of tools may have changed."""
        return 0

    @abstractmethod
    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the tools as they are now.

        Raises:
            AgentRunError: the source cannot be reached or its definitions are unusable.
        """

    async def instructions(self, context: RunContext[Any]) -> str | None:
        """Return text that follows the agent's instructions in each request; None if there is none.

        It is resolved for each request, as instructions are. Prompt caches hold only while it stays equal.
        """
        return None

    async def additions(self, context: RunContext[Any], prompt: str) -> Sequence[Addition]:
        """Return text to add to the prompt of a new run, such as memories.

        It is requested once, when the run begins, and becomes part of the conversation: the part of it that a
        prompt cache holds stays valid. Guardrails check it as a result of a tool.

        Args:
            context: Context of the run; its messages are the earlier conversation.
            prompt: What the user said, with a note in place of each file.
        """
        return ()

    async def run_ended(  # noqa: B027 - most toolsets have nothing to do
        self, context: RunContext[Any], messages: Sequence[ModelMessage]
    ) -> None:
        """Receive the messages of a run that has ended with an answer.

        It is called before the end of the run is stored. If the process is killed in between, the run is resumed
        and it is called again: what it stores must be recognised by `context.run_id`.

        Args:
            context: Context of the run.
            messages: Messages of this run alone.
        """

    async def __aenter__(self) -> Self:
        """Acquire the resources of the tools."""
        return self

    async def __aexit__(  # noqa: B027 - having nothing to release is the common case
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the resources."""

    def prefixed(self, prefix: str) -> Toolset:
        """Return a view whose names begin with `prefix` and an underscore."""
        return _View(self, lambda tools: [tool.renamed(f"{prefix}_{tool.name}") for tool in tools])

    def filtered(self, keep: Callable[[ToolDefinition], bool]) -> Toolset:
        """Return a view of the tools whose definition `keep` accepts."""
        return _View(self, lambda tools: [tool for tool in tools if keep(tool.definition)])

    def requiring_approval(
        self, rule: ApprovalRule = True, *, when: Callable[[ToolDefinition], bool] | None = None
    ) -> Toolset:
        """Return a view whose calls require approval if `rule` matches; `when` selects the tools, None all.

        The tools' own rules still apply. Select by annotation: `when=lambda tool: not tool.annotations.read_only`.
        """

        def ask(tool: Tool) -> Tool:
            if when is not None and not when(tool.definition):
                return tool
            return replace(tool, requires_approval=either_asks(tool.requires_approval, rule))

        return _View(self, lambda tools: [ask(tool) for tool in tools])

    def renamed(self, names: Mapping[str, str]) -> Toolset:
        """Return a view with the tools in `names` (old to new) renamed.

        A name in `names` that the toolset lacks raises `UserError` when the tools are listed.
        """

        def rename(tools: Sequence[Tool]) -> list[Tool]:
            if unknown := set(names) - {tool.name for tool in tools}:
                have = ", ".join(repr(tool.name) for tool in tools)
                raise UserError(f"renamed({sorted(unknown)!r}): toolset {self.id!r} has only {have}.")
            return [tool.renamed(names.get(tool.name, tool.name)) for tool in tools]

        return _View(self, rename)


def overriding(
    toolsets: Sequence[Toolset], method: Literal["instructions", "additions", "run_ended"]
) -> list[Toolset]:
    """Return the toolsets whose class has its own version of an optional method."""
    return [each for each in toolsets if getattr(type(each), method) is not getattr(Toolset, method)]


class _View(Toolset):
    """The tools of another toolset, transformed by `change`."""

    def __init__(self, inner: Toolset, change: Callable[[Sequence[Tool]], Sequence[Tool]]) -> None:
        self._inner = inner
        self._change = change

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def revision(self) -> int:
        return self._inner.revision

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        return self._change(await self._inner.list_tools(context))

    async def instructions(self, context: RunContext[Any]) -> str | None:
        return await self._inner.instructions(context)

    async def additions(self, context: RunContext[Any], prompt: str) -> Sequence[Addition]:
        return await self._inner.additions(context, prompt)

    async def run_ended(self, context: RunContext[Any], messages: Sequence[ModelMessage]) -> None:
        await self._inner.run_ended(context, messages)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)
