"""Resources, prompts and completions of a connected server, for the application.

MCP gives tools to the model; resources are chosen by the application and prompts by the user. Reading has no side
effect by the protocol's rules, so a request is sent once more if the connection is lost.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from pydantic import ValidationError

from agentkit.errors import MCPConnectionError, MCPRequestError, UserError
from agentkit.mcp.call import CallOptions, timed_out_after
from agentkit.mcp.client_features import Roots
from agentkit.mcp.connection import Connection, is_closed
from agentkit.mcp.paging import every_page
from agentkit.mcp.prompts import Prompt, PromptMessages, messages_of, prompts_of
from agentkit.mcp.resources import (
    Resource,
    ResourceContents,
    ResourceTemplate,
    contents_of,
    resources_of,
    templates_of,
)
from agentkit.mcp.results import bounded

if TYPE_CHECKING:
    from mcp import Client

T = TypeVar("T")

MAX_COMPLETIONS = 100
"""Values of one completion: the protocol's own limit."""
MAX_COMPLETION_CHARS = 1_000


class ServerData(ABC):
    """Everything of a server but its tools; the base of `MCPToolset`."""

    _calls: CallOptions
    _max_pages: int
    _roots: Roots

    @property
    @abstractmethod
    def id(self) -> str:
        """Name of the server for errors."""

    @abstractmethod
    def _connection(self) -> Connection:
        """Return the connection of this event loop."""

    async def list_resources(self) -> list[Resource]:
        """Return the resources that the server lists; empty if it has none.

        Raises:
            MCPConnectionError: the server cannot be reached.
            MCPRequestError: the server refuses, or its list does not end.
            UserError: the toolset is not entered.
        """

        async def fetch(client: Client) -> list[Any]:
            async def page(cursor: str | None) -> tuple[Sequence[Any], str | None]:
                found = await client.list_resources(cursor=cursor)
                return found.resources, found.next_cursor

            return await every_page(page, self._max_pages, f"resources of MCP server {self.id!r}")

        return resources_of(await self._if_offered("resources", "list its resources", fetch, []))

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return the templates of the server's resources; empty if it has none.

        Raises:
            AgentKitError: as `list_resources`.
        """

        async def fetch(client: Client) -> list[Any]:
            async def page(cursor: str | None) -> tuple[Sequence[Any], str | None]:
                found = await client.list_resource_templates(cursor=cursor)
                return found.resource_templates, found.next_cursor

            return await every_page(page, self._max_pages, f"resource templates of MCP server {self.id!r}")

        return templates_of(await self._if_offered("resources", "list its resource templates", fetch, []))

    async def read_resource(self, uri: str | Resource) -> ResourceContents:
        """Read a resource; texts are cut at `result_limit` characters.

        The contents are untrusted: give them to a model with `agent.run(..., tainted=contents.is_untrusted)`.

        Raises:
            MCPRequestError: the server has no such resource, or refuses.
            AgentKitError: as `list_resources`.
        """
        wanted = uri if isinstance(uri, str) else uri.uri
        result = await self._ask(f"read {wanted[:200]!a}", lambda client: client.read_resource(wanted))
        return contents_of(wanted, result.contents, limit=self._calls.result_limit, clean=self._is_untrusted)

    @asynccontextmanager
    async def subscribe(self, *uris: str) -> AsyncGenerator[AsyncIterator[str]]:
        """Subscribe to changes of resources; iterate over the URIs of those that changed.

        Example:
            ```python
            async with notes.subscribe("file:///todo.md") as changes:
                async for uri in changes:
                    print((await notes.read_resource(uri)).text)
            ```

        Raises:
            MCPConnectionError: the server cannot be reached; raised by the iteration when the connection is lost.
            MCPRequestError: the server refuses.
            UserError: no URI is given, or the toolset is not entered.
        """
        from mcp import MCPError

        if not uris:
            raise UserError("subscribe() needs the URI of a resource: toolset.subscribe('file:///todo.md').")
        connection = self._connection()
        client = await connection.client()
        updates = connection.updates.subscribed(client, uris, self.id)
        try:
            with anyio.fail_after(self._calls.timeout_s):
                changes = await updates.__aenter__()
        except (MCPError, TimeoutError, RuntimeError) as error:
            raise MCPRequestError(
                f"MCP server {self.id!r} cannot notify of changes of {uris[0][:200]!a}: "
                f"{connection.said(error) or 'no answer in time'}"
            ) from error
        try:
            yield changes
        finally:
            await updates.__aexit__(None, None, None)

    async def list_prompts(self) -> list[Prompt]:
        """Return the prompts that the server lists; empty if it has none.

        Raises:
            AgentKitError: as `list_resources`.
        """

        async def fetch(client: Client) -> list[Any]:
            async def page(cursor: str | None) -> tuple[Sequence[Any], str | None]:
                found = await client.list_prompts(cursor=cursor)
                return found.prompts, found.next_cursor

            return await every_page(page, self._max_pages, f"prompts of MCP server {self.id!r}")

        return prompts_of(await self._if_offered("prompts", "list its prompts", fetch, []))

    async def get_prompt(self, name: str | Prompt, arguments: Mapping[str, str] | None = None) -> PromptMessages:
        """Return a prompt with its arguments filled in, as messages for a run.

        Example:
            ```python
            task = await git.get_prompt("review_changes")
            await agent.run(task.prompt, message_history=task.history, tainted=task.is_untrusted)
            ```

        Raises:
            MCPRequestError: the server has no such prompt, or an argument is missing or wrong.
            AgentKitError: as `list_resources`.
        """
        wanted = name if isinstance(name, str) else name.name
        given = dict(arguments or {})
        result = await self._ask(f"get prompt {wanted[:200]!a}", lambda client: client.get_prompt(wanted, given))
        return messages_of(result.messages, limit=self._calls.result_limit, clean=self._is_untrusted)

    async def complete(
        self,
        argument: str,
        value: str,
        *,
        prompt: str | None = None,
        template: str | None = None,
        given: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the server's completions of what a person has typed; at most 100.

        Args:
            argument: Name of the prompt's argument, or of the template's variable.
            value: The beginning that was typed.
            prompt: Name of the prompt; give either this or `template`.
            template: URI template of the resources.
            given: Other arguments that are filled in already.

        Raises:
            UserError: neither or both of `prompt` and `template` are given.
            AgentKitError: as `list_resources`.
        """
        from mcp_types import PromptReference, ResourceTemplateReference

        if (prompt is None) == (template is None):
            raise UserError("complete() needs either prompt=NAME or template=URI_TEMPLATE.")
        reference = (
            PromptReference(name=prompt) if prompt is not None else ResourceTemplateReference(uri=template or "")
        )
        typed = {"name": argument, "value": value}
        context = dict(given) if given else None

        async def send(client: Client) -> list[str]:
            return (await client.complete(reference, typed, context)).completion.values

        values = await self._if_offered("completions", f"complete {argument[:200]!a}", send, [])
        return [bounded(each, MAX_COMPLETION_CHARS, clean=self._is_untrusted) for each in values[:MAX_COMPLETIONS]]

    async def set_roots(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        """Offer the server other folders than `roots`, and tell it that they have changed.

        Servers that speak 2026-07-28 ask during a call, and are not told.

        Raises:
            UserError: a folder does not exist, or the toolset was made without `roots`.
        """
        from mcp_types import RootsListChangedNotification
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        self._roots.replace(folders)
        connection = self._connection()
        client = await connection.client()
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            await client.session.send_notification(RootsListChangedNotification())

    @property
    def _is_untrusted(self) -> bool:
        return self._calls.trust == "untrusted"

    async def _if_offered(
        self, capability: str, action: str, send: Callable[[Client], Awaitable[T]], otherwise: T
    ) -> T:
        """Send a request; return `otherwise` if the server does not have the capability or know the method."""
        from mcp import MCPError
        from mcp_types import METHOD_NOT_FOUND

        async def send_if_known(client: Client) -> T:
            try:
                return await send(client)
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return otherwise
                raise

        if lacks(await self._connection().client(), capability):
            return otherwise
        return await self._ask(action, send_if_known)

    async def _ask(self, action: str, send: Callable[[Client], Awaitable[T]]) -> T:
        """Send a request that changes nothing; once more if the connection is lost.

        Raises:
            MCPConnectionError: the server cannot be reached.
            MCPRequestError: it refuses, does not answer in time, or its answer is not valid MCP.
        """
        from mcp import MCPError
        from mcp.client import InputRequiredRoundsExceededError

        connection = self._connection()
        failed = f"MCP server {self.id!r} cannot {action}"
        for is_last in (False, True):
            client = await connection.client()
            try:
                with connection.clocks.limited(self._calls.timeout_s) as clock:
                    return await send(client)
                raise MCPRequestError(f"{failed}: no answer within {timed_out_after(clock, self._calls)}.")
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise MCPRequestError(
                    f"{failed}: its answer is not valid MCP at {where!r}: {first['msg']}."
                ) from error
            except InputRequiredRoundsExceededError as error:
                raise MCPRequestError(f"{failed}: it kept asking for input.") from error
            except (MCPError, RuntimeError, anyio.ClosedResourceError) as error:
                if connection.refusal is not None:
                    raise connection.refusal from error
                is_lost = connection.has_lost(client) or (isinstance(error, MCPError) and is_closed(error))
                if not is_lost and isinstance(error, MCPError):
                    raise MCPRequestError(f"{failed}: {connection.said(error)}") from error
                if not is_lost:
                    raise
                connection.lose(client)
                if is_last:
                    raise MCPConnectionError(f"{failed}: {connection.said(error)}") from error
        raise AssertionError("the last turn returns or raises")


def lacks(client: Client, capability: str) -> bool:
    """Return whether a server declares that it does not have a capability.

    One that declares nothing at all is asked: with a fixed version nothing is negotiated (`mode`).
    """
    declared = client.server_capabilities
    return getattr(declared, capability) is None and bool(declared.model_dump(exclude_none=True))
