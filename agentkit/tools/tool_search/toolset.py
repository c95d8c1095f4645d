"""Tool search: the definitions of an agent's tools stay out of its prompt until a search finds them.

`ToolSearch` wraps toolsets. When a run begins, the tools nearest to the prompt are added to it. The model finds
more with the tool `search_tools`. The definitions stand where they were found, so what a prompt cache holds stays
valid, and what was found is part of the conversation. (Deferred tools and a search tool: Anthropic's "tool search
tool"; pydantic-ai's `defer_loading`.)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from agentkit.basics.near_names import near_names
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.messages import Addition, ModelMessage
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.found_tools import FOUND_KEY, SEARCH_TOOL, found_names
from agentkit.tools.function import function_tool
from agentkit.tools.listing import list_all, tools_by_name
from agentkit.tools.tool import ApprovalRule, Tool, ToolOutput
from agentkit.tools.tool_search.signatures import MAX_FIRST_CHARS, MAX_SIGNATURE_CHARS, signature
from agentkit.tools.toolset import Toolset, overriding

if TYPE_CHECKING:
    from agentkit.tools.tool_search.tool_index import ToolIndex
    from modelstack.inference.minilm import TextEmbedder

logger = logging.getLogger(__name__)

SOURCE = "tool search"
"""Source of the additions."""
_TELLS_NOTHING = ("functions", "toolset")
"""Names of toolsets that are no words to search for."""
_told_missing = threading.Event()
"""Set once the missing embedding model has been reported."""


class ToolSearch(Toolset):
    """Toolsets whose tools a model is shown only when a search finds them.

    Example:
        ```python
        tools = ToolSearch(MCPToolset("npx -y @acme/everything"), always=["get_time"])
        agent = Agent("local", toolsets=[tools])
        ```
    """

    def __init__(
        self,
        *toolsets: Toolset,
        top: int = 5,
        always: Sequence[str] = (),
        embedder: TextEmbedder | Literal["auto"] | None = "auto",
        cache: Path | None = None,
    ) -> None:
        """Wrap toolsets.

        Args:
            toolsets: The sources of the tools.
            top: Number of tools that a search finds.
            always: Names of tools whose definitions are in the prompt from the beginning.
            embedder: Embedding model that searches by meaning; "auto": all-MiniLM-L6-v2 if it is on this machine;
                None: words only.
            cache: File in which the embeddings of tools are kept; None: one in the user's cache.

        Raises:
            UserError: no toolset is given, or `top` is below 1.
        """
        if not toolsets or any(not isinstance(each, Toolset) for each in toolsets):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError("ToolSearch(...) takes toolsets, e.g. `ToolSearch(FunctionToolset([add, subtract]))`.")
        if top < 1:
            raise UserError(f"ToolSearch(top={top}) finds nothing: `top` is at least 1.")
        self._toolsets = toolsets
        self._top = top
        self._always = tuple(always)
        self._embedder: TextEmbedder | Literal["auto"] | None = embedder
        self._cache = cache
        self._index: ToolIndex | None = None
        self._index_lock = threading.Lock()
        self._search_tool = _search_tool(self._answer)

    @property
    def id(self) -> str:
        """Name for errors and traces."""
        return SOURCE

    @property
    def revision(self) -> int:
        """Sum of the toolsets' revisions, each of which only grows."""
        return sum(each.revision for each in self._toolsets)

    async def __aenter__(self) -> Self:
        """Enter the toolsets."""
        async with AsyncExitStack() as entered:
            for toolset in self._toolsets:
                await entered.enter_async_context(toolset)
            entered.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the toolsets, the last first."""
        leaving = AsyncExitStack()
        for toolset in self._toolsets:
            leaving.push_async_exit(toolset)
        await leaving.__aexit__(kind, error, trace)

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the search tool, the tools that are always there, and the deferred ones.

        Raises:
            UserError: `always` names an unknown tool, or two tools share a name.
            AgentRunError: a source cannot be reached or its definitions are unusable.
        """
        tools = await tools_by_name(self._toolsets, context)
        if unknown := [name for name in self._always if name not in tools]:
            near = near_names(unknown[0], list(tools))
            hint = f"nearest: {near[0]!r}." if near else f"there are {len(tools)} tools."
            raise UserError(f"ToolSearch(always=[{unknown[0]!r}]): there is no such tool; {hint}")
        shown = {name: tool for name, tool in tools.items() if name in self._always}
        deferred = (replace(tool, defer_loading=True) for name, tool in tools.items() if name not in shown)
        return [self._search_tool, *shown.values(), *deferred]

    async def instructions(self, context: RunContext[Any]) -> str | None:
        """Return the instructions of the toolsets."""
        texts = [await each.instructions(context) for each in overriding(self._toolsets, "instructions")]
        return "\n\n".join(text for text in texts if text) or None

    async def additions(self, context: RunContext[Any], prompt: str) -> Sequence[Addition]:
        """Return the tools nearest to the prompt, and the additions of the toolsets."""
        found = list[Addition]()
        for each in overriding(self._toolsets, "additions"):
            found += await each.additions(context, prompt)
        tools = await self._search(context, prompt)
        if tools:
            known = set(found_names(context.messages, context.messages))
            names = tuple(tool.name for tool in tools)
            found.append(Addition(SOURCE, _shown("Tools that fit this request:", tools, known), names))
        return found

    async def run_ended(self, context: RunContext[Any], messages: Sequence[ModelMessage]) -> None:
        """Tell the toolsets."""
        for each in overriding(self._toolsets, "run_ended"):
            await each.run_ended(context, messages)

    def prefixed(self, prefix: str) -> Toolset:
        """Refuse: the search names tools in the conversation.

        Raises:
            UserError: always.
        """
        raise UserError(_VIEW.format(f"prefixed({prefix!r})"))

    def renamed(self, names: Any) -> Toolset:
        """Refuse, as `prefixed` does.

        Raises:
            UserError: always.
        """
        raise UserError(_VIEW.format(f"renamed({names!r})"))

    def filtered(self, keep: Callable[[ToolDefinition], bool]) -> Toolset:
        """Return a search over the tools whose definition `keep` accepts."""
        return self._over(lambda toolset: toolset.filtered(keep))

    def requiring_approval(
        self, rule: ApprovalRule = True, *, when: Callable[[ToolDefinition], bool] | None = None
    ) -> Toolset:
        """Return a search over tools that require approval; see `Toolset.requiring_approval`."""
        return self._over(lambda toolset: toolset.requiring_approval(rule, when=when))

    def _over(self, view: Callable[[Toolset], Toolset]) -> ToolSearch:
        options: dict[str, Any] = {"top": self._top, "always": self._always}
        return ToolSearch(*map(view, self._toolsets), embedder=self._embedder, cache=self._cache, **options)

    async def _answer(self, query: str, context: RunContext[Any]) -> ToolOutput:
        """Return the result of a call of the search tool."""
        tools = await self._search(context, query)
        names = [tool.name for tool in tools]
        text = _shown("Found; call them like any other tool:", tools, set()) if tools else _NOTHING
        return ToolOutput(text, {FOUND_KEY: names})

    async def _search(self, context: RunContext[Any], request: str) -> list[ToolDefinition]:
        from anyio import to_thread

        listed = await list_all(self._toolsets, context)
        return await to_thread.run_sync(self._search_in, listed, request)

    def _search_in(self, listed: Sequence[Sequence[Tool]], request: str) -> list[ToolDefinition]:
        """Search, in a worker thread; the index is made again if the tools have changed."""
        from agentkit.tools.tool_search.tool_index import IndexedTool, ToolIndex

        tools = tuple(
            IndexedTool(tool.definition, _words_of(toolset))
            for toolset, its_tools in zip(self._toolsets, listed, strict=True)
            for tool in its_tools
            if tool.name not in self._always
        )
        with self._index_lock:
            index = self._index
            if index is None or index.tools != tools:
                index = self._index = ToolIndex(tools, self._embedding_model(), self._cache or _cache_file())
        return index.search(request, self._top)

    def _embedding_model(self) -> TextEmbedder | None:
        if not isinstance(self._embedder, str):
            return self._embedder
        from modelstack.errors import UserError as MissingModel

        try:
            from modelstack.inference.minilm import minilm

            return minilm()
        except (ImportError, MissingModel) as error:
            if not _told_missing.is_set():
                _told_missing.set()
                logger.warning("tools are searched by words alone: %s", error)
            return None


_VIEW = "ToolSearch(...).{}: prefix or rename the toolsets inside, e.g. `ToolSearch(toolset.prefixed('web'))`."
_NOTHING = "No tool has to do with this. Try other words, or answer without a tool."


def _search_tool(answer: Callable[[str, RunContext[Any]], Any]) -> Tool:
    async def search_tools(context: RunContext[Any], query: str) -> ToolOutput:
        """Find tools for what the listed tools cannot do. Say in a few words what the tool should do."""
        return await answer(query, context)

    annotations = ToolAnnotations(read_only=True, idempotent=True, open_world=False)
    return function_tool(search_tools, name=SEARCH_TOOL, annotations=annotations)


def _shown(heading: str, tools: Sequence[ToolDefinition], known: set[str]) -> str:
    """Return the definitions of tools, the nearest first; those that the conversation has are only named."""
    room = [MAX_FIRST_CHARS, *[MAX_SIGNATURE_CHARS] * (len(tools) - 1)]
    new = [signature(tool, max_chars=n) for tool, n in zip(tools, room, strict=True) if tool.name not in known]
    old = ", ".join(tool.name for tool in tools if tool.name in known)
    lines = [heading, *new] if new else []
    return "\n".join([*lines, f"Known from before, and fitting: {old}."] if old else lines)


def _words_of(toolset: Toolset) -> str:
    """Return the name of a toolset as far as it says what its tools are about."""
    name = toolset.id
    return "" if name.lower() in _TELLS_NOTHING or name == type(toolset).__name__ else name


def _cache_file() -> Path:
    from modelstack.cache_folder import cache_dir

    return cache_dir() / "tool-search" / "embeddings.sqlite"
