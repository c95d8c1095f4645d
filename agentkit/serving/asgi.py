"""The ASGI application of a served agent: its own interface, those of protocols, access, errors in one form.

`docs/guides/serving-agents.md` lists all routes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, request_response

from agentkit import studio
from agentkit.errors import AgentKitError, CheckpointError, UserError
from agentkit.file_references import with_references
from agentkit.persistence.checkpointer import EventCheckpointer
from agentkit.persistence.named_journal import named_journal
from agentkit.persistence.sql_checkpointer import SQLCheckpointer
from agentkit.serving import mcp_endpoint, openai_chat, vercel
from agentkit.serving.access import AGENT_CARD, Access
from agentkit.serving.errors import RequestRefused
from agentkit.serving.limits import ServiceLimits
from agentkit.serving.mcp_oauth import OAuthAccess, oauth_access, refusal
from agentkit.serving.metrics import Metrics
from agentkit.serving.observed_endpoint import ObservedEndpoint
from agentkit.serving.openai_responses import ResponseRoutes
from agentkit.serving.request_spans import RequestSpans
from agentkit.serving.run_routes import Endpoint, RunRoutes, read, streaming
from agentkit.serving.service import AgentService
from agentkit.serving.threads import unless_left
from mcp_servers.distribution import install_command
from mcp_servers.oauth.guard import AccessRefused
from modelstack.inference.server.bodies import BodyT, read_content
from modelstack.inference.server.errors import ApiError

if TYPE_CHECKING:
    from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentkit.agent import Agent
    from agentkit.persistence.session import Session
    from mcp_servers.oauth.protected_resource import ProtectedResource

logger = logging.getLogger(__name__)

MCP = "/mcp"
"""Path under which the MCP server is mounted."""


def app(
    agent: Agent[Any, Any],
    *,
    journal: str | Path | EventCheckpointer,
    session_of: Callable[[str], Session] | None = None,
    keys: Mapping[str, str] | None = None,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    name: str = "agent",
    deps: Callable[[str], Any] | None = None,
    limits: ServiceLimits = ServiceLimits(),
    has_studio: bool = False,
    oauth: ProtectedResource | None = None,
) -> AgentApp:
    """Return an ASGI application that serves an agent.

    An ASGI server runs it as it is. An application that mounts it enters `running()` in its own lifespan, because
    a mounted application is not told that the server starts.

    Args:
        agent: The agent; its own `checkpointer` has no part in served runs.
        journal: SQLite file of the runs, `postgresql://` URL, or a checkpointer that stores events.
        session_of: Returns the conversation with an id; None: those of the journal, if it is in SQL.
        keys: Keys by the name of their client; None: no key is needed, and only this machine's names are answered.
        hosts: Names in the `Host` header that are answered; see `Access`.
        origins: Origins of web pages that may ask.
        name: Name of the service in the journal: processes with the same name share their runs.
        deps: Returns the `deps` of a run, from the name of the client's key.
        limits: Limits of number, size and time.
        has_studio: Serve the studio's page, under `/studio/`.
        oauth: Clients of the MCP endpoint need an access token for this resource, instead of a key.

    Raises:
        UserError: an argument has a value that is not allowed.
    """
    checkpointer = named_journal(journal) if isinstance(journal, str | Path) else journal
    if not isinstance(checkpointer, EventCheckpointer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"journal={checkpointer!r}: name a file, or an EventCheckpointer, which stores events.")
    if session_of is None and isinstance(checkpointer, SQLCheckpointer):
        session_of = checkpointer.session
    if session_of is None:
        kind = type(checkpointer).__name__
        raise UserError(f"session_of=None: {kind} keeps no conversations; name a function that returns them.")
    service = AgentService(
        agent, checkpointer=checkpointer, session_of=session_of, name=name, deps=deps, limits=limits
    )
    access = Access(keys, hosts, origins)
    return AgentApp(service, access, has_studio=has_studio, oauth=oauth_access(oauth, keys))


class AgentApp:
    """The endpoints of a service; an ASGI application."""

    def __init__(
        self, service: AgentService, access: Access, *, has_studio: bool = False, oauth: OAuthAccess | None = None
    ) -> None:
        """Answer for a service; see `app`."""
        self.service = service
        self._access = access
        self._oauth = oauth
        self._metrics, self._spans = Metrics(service), RequestSpans(service.telemetry)
        get: dict[str, Endpoint] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._figures,
            "/agent": self._agent,
            "/sessions/{session:path}": self._session,
            "/vercel/{chat}/stream": self._vercel_again,
            "/v1/models": self._models,
            AGENT_CARD: self._a2a_card,
        }
        if has_studio:
            get |= {studio.ROOT: studio.root, studio.FILE: studio.file}
        post: dict[str, Endpoint] = {
            "/ag-ui": self._ag_ui,
            "/vercel": self._vercel,
            "/v1/chat/completions": self._chat,
            "/a2a": self._a2a,
        }
        delete: dict[str, Endpoint] = {
            "/sessions/{session:path}": self._delete_session,
        }
        runs, responses = RunRoutes(service).by_method, ResponseRoutes(service).by_method
        own = {"GET": get, "POST": post, "DELETE": delete}
        rooms = (runs, responses, own)  # those of runs first: routes are tried in order
        self._a2a_dispatcher: JsonRpcDispatcher | None = None
        self._mcp = mcp_endpoint.mcp_server(service, access.owner_in if oauth is None else oauth.owner_in)
        self._starlette = Starlette(
            routes=[
                *(
                    Route(path, self._observed(path, self._guarded(path, endpoint)), methods=[method])
                    for room in rooms
                    for method, endpoints in room.items()
                    for path, endpoint in endpoints.items()
                ),
                *([] if oauth is None else [Route(path, oauth.metadata) for path in oauth.paths]),
                Mount(MCP, self._observed(MCP, self._guarded_mcp())),
            ],
            middleware=[Middleware(CORSMiddleware, **_cors(access.origins))] if access.origins else [],
            exception_handlers={HTTPException: self._no_route},
            lifespan=lambda _: self.running(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection."""
        await self._starlette(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Perform runs while the context is open; an application that mounts this one enters it."""
        async with self.service.running(), self._mcp.session_manager.run():
            yield

    def _observed(self, path: str, endpoint: ASGIApp) -> ASGIApp:
        return ObservedEndpoint(endpoint, path, self._metrics, self._spans)

    def _guarded_mcp(self) -> ASGIApp:
        endpoint = mcp_endpoint.endpoint(self._mcp, self.service.limits.max_body_bytes)

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                if self._oauth is None:
                    owner = self._access.owner(Request(scope), MCP)
                else:
                    self._access.check_source(Request(scope))
                    owner = await self._oauth.owner(scope)
                    scope = self._oauth.named(scope, owner)
            except RequestRefused as error:
                await _refused(error, MCP)(scope, receive, send)
                return
            except AccessRefused as error:
                await refusal(error)(scope, receive, send)
                return
            await endpoint(mcp_endpoint.owned(scope, owner), receive, send)

        return guarded

    def _guarded(self, path: str, endpoint: Endpoint) -> ASGIApp:
        async def guarded(request: Request) -> Response:
            try:
                return await endpoint(request, self._access.owner(request, path))
            except Exception as error:
                return _refused(error, path)

        return request_response(guarded)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        what = "has no such method" if status == 405 else "does not exist"
        text = f"{request.method} {request.url.path} {what} on this server."
        return _error(status, "not_found" if status == 404 else "no_such_method", text)

    def _stream(self, lines: AsyncIterator[bytes], headers: Mapping[str, str]) -> Response:
        return streaming(lines, headers, self.service.limits)

    # -- protocols ------------------------------------------------------------------------------------------

    async def _ag_ui(self, request: Request, owner: str) -> Response:
        with _extra("ag-ui"):
            from agentkit.serving import ag_ui
        given = await self._body(request, ag_ui.RunAgentInput)
        run_id, after = await ag_ui.accept(self.service, given, owner)
        batches = await self.service.follow(run_id, after, owner)
        return self._stream(ag_ui.lines(batches, given), {"Run-Id": run_id})

    async def _vercel(self, request: Request, owner: str) -> Response:
        run_id, after = await vercel.accept(self.service, await self._body(request, vercel.ChatBody), owner)
        batches = await self.service.follow(run_id, after, owner)
        return self._stream(vercel.lines(batches, run_id), {**vercel.HEADERS, "Run-Id": run_id})

    async def _vercel_again(self, request: Request, owner: str) -> Response:
        run_id = await vercel.running_run(self.service, request.path_params["chat"], owner)
        if run_id is None:
            return Response(status_code=204)  # the SDK's sign that there is nothing to read on
        batches = await self.service.follow(run_id, 0, owner)
        return self._stream(vercel.lines(batches, run_id), vercel.HEADERS)

    async def _chat(self, request: Request, owner: str) -> Response:
        body = await self._body(request, openai_chat.ChatBody)
        run_id = await openai_chat.accept(self.service, body, request.headers.get("idempotency-key"), owner)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            told = openai_chat.chunks(self.service, run_id, owner, with_usage=usage)
            return self._stream(told, {"Run-Id": run_id})
        whole = await unless_left(request, openai_chat.completion(self.service, run_id, owner))
        return JSONResponse(whole, headers={"Run-Id": run_id})

    async def _a2a(self, request: Request, owner: str) -> Response:
        if self._a2a_dispatcher is None:
            with _extra("a2a"):
                from agentkit.serving import a2a_endpoint
            self._a2a_dispatcher = a2a_endpoint.dispatcher(self.service, self._access.owner_in)
        limits = self.service.limits
        content = await read_content(request, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        request._body = content  # pyright: ignore[reportPrivateUsage] - the dispatcher would read without a limit
        return await self._a2a_dispatcher.handle_requests(request)

    async def _a2a_card(self, request: Request, owner: str) -> Response:
        with _extra("a2a"):
            from agentkit.serving import a2a_endpoint
        here = str(request.url).removesuffix(AGENT_CARD)
        return JSONResponse(a2a_endpoint.card_of(self.service, f"{here}/a2a"))

    async def _models(self, request: Request, owner: str) -> Response:
        card = {"id": self.service.name, "object": "model", "created": 0, "owned_by": "agentkit"}
        return JSONResponse({"object": "list", "data": [card]})

    # -- sessions and the service ---------------------------------------------------------------------------

    async def _session(self, request: Request, owner: str) -> Response:
        from pydantic_core import to_jsonable_python

        name = request.path_params["session"]
        history = await self.service.session(name, owner).load()
        messages = to_jsonable_python(with_references(history.messages, {}))
        return JSONResponse({"session": name, "messages": messages})

    async def _delete_session(self, request: Request, owner: str) -> Response:
        await self.service.delete_session(request.path_params["session"], owner)
        return Response(status_code=204)

    async def _agent(self, request: Request, owner: str) -> Response:
        return JSONResponse({"name": self.service.agent_name, "service": self.service.name, "client": owner})

    async def _live(self, request: Request, owner: str) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request, owner: str) -> Response:
        if not self.service.is_ready:
            raise RequestRefused("closing", "runs are not performed here: the service starts or stops.")
        return JSONResponse({"status": "ok"})

    async def _figures(self, request: Request, owner: str) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _body(self, request: Request, model: type[BodyT]) -> BodyT:
        return await read(request, model, self.service.limits)


def _cors(origins: Collection[str]) -> dict[str, Any]:
    """Return what tells browsers that pages of these origins may ask, and read the answers."""
    return {
        "allow_origins": sorted(origins),
        "allow_methods": ["GET", "POST", "DELETE"],
        "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        "expose_headers": ["Location", "Run-Id", *vercel.HEADERS],
    }


@contextmanager
def _extra(name: str) -> Generator[None]:
    """Name the extra of a protocol whose package is missing.

    Raises:
        RequestRefused: It is missing.
    """
    try:
        yield
    except ImportError as error:
        raise RequestRefused("not_there", f"this protocol needs {error.name}: {install_command(name)}") from error


def _refused(error: Exception, path: str) -> Response:
    match error:
        case RequestRefused():
            return _error(error.status, error.code, error.message)
        case ApiError():
            message = error.message if error.param is None else f"{error.param}: {error.message}"
            return _error(error.status, error.code or "bad_request", message, error.param)
        case CheckpointError():
            logger.warning("%s: %s", path, error)
            return _error(503, "journal", f"the journal could not be used: {error}")
        case AgentKitError():
            return _error(400, "bad_request", str(error))
        case _:
            logger.exception("%s failed", path)
            return _error(500, "failed", "the server failed; its log has the reason.")


def _error(status: int, code: str, message: str, param: str | None = None) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    body = ApiError(status, message, param, code).as_openai()
    return JSONResponse(body, status_code=status, headers=headers)
