"""A generation of a connection: the task that enters `mcp.Client`, waits, and leaves it.

`mcp.Client` holds cancel scopes, so the task that enters it must be the one that leaves it (python-sdk#79,
pydantic-ai#2818); calls may come from any task of the loop.

The owner is an asyncio task: this package runs on asyncio. It is never cancelled natively, because a native
cancellation pierces the shield under which mcp ends a child process.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import anyio
import anyio.to_thread

from agentkit.errors import MCPConnectionError
from agentkit.mcp.call_clocks import CallClocks
from agentkit.mcp.client_features import ClientFeatures
from agentkit.mcp.elicitation import OnElicit, elicitation_callback
from agentkit.mcp.last_words import http_refusal, last_words, start_failure
from agentkit.mcp.resource_updates import ResourceUpdates
from agentkit.mcp.results import bounded, error_text
from agentkit.mcp.target import HttpTarget, StderrTail, StdioTarget, open_target

if TYPE_CHECKING:
    from anyio.abc import TaskStatus
    from mcp import Client

    from agentkit.mcp.oauth.session import OAuthSession

    Waiting: TypeAlias = Callable[[], AbstractContextManager[None]]

logger = logging.getLogger(__name__)

RELISTEN_DELAYS_S = (1.0, 5.0, 30.0, 60.0)
"""Seconds before a dropped subscription is opened again; the last delay repeats."""

LISTEN_TIMEOUT_S = 5.0
"""Seconds for the server to acknowledge a subscription; otherwise it is used without notifications."""

SHUTDOWN_S = 15.0
"""Seconds for exiting a client. A child that ignores everything but SIGKILL needs up to 7 s of it."""

STDERR_WAIT_S = 0.2
"""Seconds for the last stderr output of a child that has ended; reached only if a grandchild holds it open."""


_UNNAMED_STATUS = ("Server returned an error response", "Not Found")
"""Messages by which mcp's transport reports an HTTP error status (mcp 2.3, client/streamable_http.py)."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Options of a connection; see `MCPToolset`."""

    name: str
    connect_timeout_s: float
    reconnect: bool
    mode: str
    on_elicit: OnElicit | None
    elicit_timeout_s: float
    features: ClientFeatures

    @property
    def silence_s(self) -> float:
        """Seconds that a stream of the server may be silent because a person is being asked."""
        return self.elicit_timeout_s if self.on_elicit is not None else 0.0


class Owner:
    """A generation: a task that enters a client, waits for the end and leaves it."""

    def __init__(
        self,
        target: Any,
        options: ConnectionOptions,
        on_change: Callable[[], None],
        delays_s: Sequence[float],
        after: asyncio.Task[None] | None,
        clocks: CallClocks,
        updates: ResourceUpdates,
    ) -> None:
        """Start connecting after the task `after` has ended: one attempt per delay until one succeeds.

        `clocks` are the clocks of the calls, which stop while a person is asked; `updates` receives changes of
        resources.
        """
        self._target = target
        self._options = options
        self._on_change = on_change
        self._clocks = clocks
        self._updates = updates
        self._client: Client | None = None
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()
        self._end = asyncio.Event()
        self._stopping = False
        self._subscribed = False
        self._failure = ""
        self._stderr = ""
        self._status = 0
        self._cause: BaseException | None = None
        self._fault: Exception | None = None
        self._login: OAuthSession | None = None
        self.was_live = False
        """True once it has been connected."""
        self.task = asyncio.create_task(self._run(delays_s, after), name=f"mcp-{options.name}")

    @property
    def lost(self) -> bool:
        """True if it has failed, ended or is ending; a new generation is needed."""
        return self._settled.is_set() and (self._client is None or self._end.is_set())

    @property
    def why(self) -> str:
        """Reason of its end, as the suffix of a message; empty if there is none."""
        return f": {self._failure}" if self._failure else ""

    @property
    def stderr(self) -> str:
        """Last lines of the stderr of a child process that has ended."""
        return self._stderr

    @property
    def fault(self) -> str:
        """Fault of the server that ends the connection, in words; empty if there is none."""
        return error_text(self._fault) if self._fault is not None else ""

    def serves(self, client: Client) -> bool:
        """Return whether `client` belongs to this generation."""
        return self._client is client

    def end(self) -> None:
        """Tell the owner task to exit the client."""
        self._end.set()

    async def client(self) -> Client:
        """Wait until connected."""
        await self._settled.wait()
        if self._client is None:
            if (refusal := self.refusal) is not None:
                raise copy(refusal) from refusal  # each user of the connection gets an error of its own
            message = f"MCP server {self._options.name!r} {self._failure}"
            raise MCPConnectionError(message, stderr=self._stderr) from self._cause
        return self._client

    async def stop(self) -> None:
        """End and wait for the task, even if the caller is cancelled: no child process may outlive this call."""
        self._stopping = True
        self._end.set()
        if not self._settled.is_set():
            self._scope.cancel()
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not self.task.done():
                try:
                    await asyncio.wait({self.task})
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _run(self, delays_s: Sequence[float], after: asyncio.Task[None] | None) -> None:
        try:
            if after is not None and not after.done():
                await asyncio.wait({after})  # two children at once could fight over a file or a port
            for delay_s in delays_s:
                with self._scope:
                    await anyio.sleep(delay_s)
                    await self._serve()
                if self.was_live or self._stopping:
                    return
                if self._scope.cancelled_caught:
                    timeout_s = self._options.connect_timeout_s
                    self._failure = f"did not answer within connect_timeout_s={timeout_s:g} s.{self._failure}"
                self._scope, self._end = anyio.CancelScope(), asyncio.Event()
        finally:
            if self._client is None:
                self._failure = self._failure or "was closed while connecting."
            self._end.set()
            self._settled.set()

    async def _serve(self) -> None:
        stderr = StderrTail()
        self._failure, self._stderr, self._status, self._fault = "", "", 0, None
        try:
            client_class = await _client_class()
            self._scope.deadline = anyio.current_time() + self._options.connect_timeout_s
            self._login = await _login_of(self._target, self._options.name, self._waiting_on_a_person)
            async with (
                open_target(
                    self._target,
                    stderr=stderr,
                    on_end=self.end,
                    on_fault=self._note_fault,
                    on_status=self._note_status,
                    silence_s=self._options.silence_s,
                    login=self._login,
                ) as target,
                self._new_client(client_class, target) as client,
                anyio.create_task_group() as tasks,
            ):
                await self._options.features.begin(client)
                await tasks.start(self._listen, client)
                self._scope.deadline = math.inf
                self._client, self.was_live = client, True
                self._settled.set()
                await self._end.wait()
                self._updates.ended()
                self._scope.deadline = anyio.current_time() + SHUTDOWN_S
                tasks.cancel_scope.cancel()
            if self._fault is not None:
                self._fail(self._fault)
        except Exception as error:  # the boundary to mcp, a transport and a child: any error is possible
            self._fail(self._fault or _first_leaf(error))
            logger.debug("MCP server %r: %s", self._options.name, self._failure, exc_info=True)
        finally:
            self._end.set()
            if not self._stopping:
                await self._keep_last_words(stderr)

    @contextmanager
    def _waiting_on_a_person(self) -> Generator[None]:
        """Stop the clocks of connecting and of calls while a person logs in."""
        deadline, began = self._scope.deadline, anyio.current_time()
        self._scope.deadline = math.inf
        try:
            with self._clocks.stopped():
                yield
        finally:
            if not self._end.is_set():  # else it has the limit of the shutdown
                self._scope.deadline = deadline + (anyio.current_time() - began)

    def _note_status(self, status: int) -> None:
        self._status = status

    def _note_fault(self, error: Exception) -> None:
        self._fault = error

    def _fail(self, cause: BaseException) -> None:
        self._cause = cause
        kind = "went away" if self.was_live else "cannot be reached"
        self._failure = f"{kind}: {self._reason(cause)}"

    def _reason(self, cause: BaseException) -> str:
        if (reason := start_failure(cause, self._target)) is not None:
            return reason
        if isinstance(self._target, StdioTarget) and str(cause) == "Connection closed":
            return "its process ended."
        return self._refusal(cause) or f"{type(cause).__name__}: {self.said(cause)}"

    def said(self, error: BaseException) -> str:
        """Return a server's reason for an error, safe to print; the values of headers are left out."""
        text = self._refusal(error) or error_text(error)
        if self._login is not None:
            text = self._login.redacted(text)
        return self._target.redacted(text) if isinstance(self._target, HttpTarget) else text

    @property
    def refusal(self) -> Exception | None:
        """Error of the login because of which the server refused the last request; None if there was none."""
        return self._login.refusal if self._login is not None else None

    def _refusal(self, error: BaseException) -> str:
        """Return the HTTP status that mcp reports as an error without naming it; "" for another error."""
        if str(error) not in _UNNAMED_STATUS:
            return ""
        return str(self.refusal or "") or http_refusal(self._status, self._target)

    async def _keep_last_words(self, stderr: StderrTail) -> None:
        with anyio.CancelScope(shield=True):
            if text := await anyio.to_thread.run_sync(stderr.text, STDERR_WAIT_S):
                self._stderr = bounded(text, len(text), clean=True)
                self._failure += last_words(self._stderr)

    def _new_client(self, client_class: Any, target: Any) -> AbstractAsyncContextManager[Client]:
        options = self._options
        return client_class(
            target,
            mode=options.mode,
            read_timeout_seconds=options.connect_timeout_s,  # `call_tool` has a limit of its own
            message_handler=self._on_message,
            elicitation_callback=elicitation_callback(
                options.on_elicit, options.name, self._clocks, options.elicit_timeout_s
            ),
            cache=None,  # the toolset keeps the listing and knows when it is stale
            **options.features.arguments(),
        )

    async def _on_message(self, message: Any) -> None:
        from mcp_types import ResourceUpdatedNotification, ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self._on_change()
        elif isinstance(message, ResourceUpdatedNotification):
            self._updates.received(str(message.params.uri))

    async def _listen(self, client: Client, *, task_status: TaskStatus[None]) -> None:
        """Keep a subscription to changes of the tools open (2026-07-28; older servers push without one)."""
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or tools is None or not tools.list_changed:
            task_status.started()
            return
        await self._follow(client, task_status)
        if not self._subscribed:  # the server refuses: the list is fetched once and assumed stable
            task_status.started()
            return
        for delay_s in chain(RELISTEN_DELAYS_S, repeat(RELISTEN_DELAYS_S[-1])):
            await anyio.sleep(delay_s)
            await self._follow(client, None)

    async def _follow(self, client: Client, task_status: TaskStatus[None] | None) -> None:
        """Stay subscribed until the stream ends; `_on_message` receives the changes in both protocol eras."""
        from mcp import MCPError
        from mcp.client.subscriptions import SubscriptionLost

        try:
            async with AsyncExitStack() as stack:
                with anyio.fail_after(LISTEN_TIMEOUT_S):
                    subscription = await stack.enter_async_context(client.listen(tools_list_changed=True))
                self._subscribed = True
                if task_status is not None:
                    task_status.started()
                else:
                    self._on_change()  # changes missed while unsubscribed are not sent again
                async for _ in subscription:
                    pass
        except (MCPError, SubscriptionLost, TimeoutError) as error:
            logger.debug("MCP server %r: subscription to tool changes ended: %s", self._options.name, error)
        if self._subscribed:
            self._on_change()  # until it is reopened, tools may change unnoticed or belong to a new server


async def _client_class() -> Any:
    def load() -> Any:
        from mcp import Client

        return Client

    return await anyio.to_thread.run_sync(load)  # the first import takes 0.7 s of CPU


async def _login_of(target: Any, name: str, waiting: Waiting) -> OAuthSession | None:
    """Return the login for a target with OAuth; None for others."""
    if not isinstance(target, HttpTarget) or target.auth is None:
        return None

    def load() -> Any:
        from agentkit.mcp.oauth.session import OAuthSession

        return OAuthSession

    session_class = await anyio.to_thread.run_sync(load)
    return session_class(target.url, target.auth, name, waiting)


def _first_leaf(error: BaseException) -> BaseException:
    if isinstance(error, BaseExceptionGroup):
        return _first_leaf(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error
