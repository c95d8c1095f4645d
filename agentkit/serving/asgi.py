"""The ASGI application of a served agent: its own interface, and errors in one form.

`POST /runs` accepts a run, `GET /runs/ID/events` streams its events from the journal, from any number on, as
server-sent events; `docs/guides/serving-agents.md` lists all routes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from agentkit.errors import AgentKitError, CheckpointError, UserError
from agentkit.events import RunFailedEvent, RunFinishedEvent
from agentkit.persistence.checkpointer import UNENDED, EventCheckpointer, RunSummary
from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
from agentkit.persistence.sqlite_session import SQLiteSession
from agentkit.persistence.stored_events import StoredEvent
from agentkit.serving import mcp_endpoint, openai_chat, vercel
from agentkit.serving.access import AGENT_CARD, Access
from agentkit.serving.bodies import DecisionsBody, RunBody
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import Batches, until_end, wait_for_end
from agentkit.serving.limits import ServiceLimits
from agentkit.serving.metrics import Metrics
from agentkit.serving.service import AgentService, RunRequest
from agentkit.serving.worker import SESSION
from mcp_servers.distribution import install_command
from modelstack.inference.server.bodies import BodyT, read_body, read_content
from modelstack.inference.server.errors import ApiError

if TYPE_CHECKING:
    from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentkit.agent import Agent
    from agentkit.persistence.session import Session

logger = logging.getLogger(__name__)

MOST_LISTED = 1000
MOST_WAIT_S = 300.0
"""Longest time for which `GET /runs/ID?wait=S` waits for the end of a run."""
Endpoint = Callable[[Request, str], Awaitable[Response]]
"""Answers a request of the client with a name."""


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
) -> AgentApp:
    """Return an ASGI application that serves an agent.

    An ASGI server runs it as it is. An application that mounts it enters `running()` in its own lifespan, because
    a mounted application is not told that the server starts.

    Args:
        agent: The agent; its own `checkpointer` has no part in served runs.
        journal: SQLite file of the runs, or a checkpointer that stores events.
        session_of: Returns the conversation with an id; needed with a checkpointer that is not a SQLite file.
        keys: Keys by the name of their client; None: no key is needed, and only this machine's names are answered.
        hosts: Names in the `Host` header that are answered; see `Access`.
        origins: Origins of web pages that may ask.
        name: Name of the service in the journal: processes with the same name share their runs.
        deps: Returns the `deps` of a run, from the name of the client's key.
        limits: Limits of number, size and time.

    Raises:
        UserError: an argument has a value that is not allowed.
    """
    checkpointer = SQLiteCheckpointer(journal) if isinstance(journal, str | Path) else journal
    if not isinstance(checkpointer, EventCheckpointer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"journal={checkpointer!r}: name a file, or an EventCheckpointer, which stores events.")
    if session_of is None and isinstance(checkpointer, SQLiteCheckpointer):
        session_of = partial(SQLiteSession, checkpointer.database)
    if session_of is None:
        kind = type(checkpointer).__name__
        raise UserError(f"session_of=None: {kind} keeps no conversations; name a function that returns them.")
    service = AgentService(
        agent, checkpointer=checkpointer, session_of=session_of, name=name, deps=deps, limits=limits
    )
    return AgentApp(service, Access(keys, hosts, origins))


class AgentApp:
    """The endpoints of a service; an ASGI application."""

    def __init__(self, service: AgentService, access: Access) -> None:
        """Answer for a service; see `app`."""
        self.service = service
        self._access = access
        self._metrics = Metrics(service)
        get: dict[str, Endpoint] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._figures,
            "/agent": self._agent,
            "/runs": self._list,
            "/runs/{run_id}": self._run,
            "/runs/{run_id}/events": self._events,
            "/sessions/{session:path}": self._session,
            "/vercel/{chat}/stream": self._vercel_again,
            "/v1/models": self._models,
            AGENT_CARD: self._a2a_card,
        }
        post: dict[str, Endpoint] = {
            "/runs": self._submit,
            "/runs/{run_id}/decisions": self._decide,
            "/runs/{run_id}/cancel": self._cancel,
            "/runs/{run_id}/resume": self._resume,
            "/ag-ui": self._ag_ui,
            "/vercel": self._vercel,
            "/v1/chat/completions": self._chat,
            "/a2a": self._a2a,
        }
        delete: dict[str, Endpoint] = {
            "/runs/{run_id}": self._delete,
            "/sessions/{session:path}": self._delete_session,
        }
        methods = {"GET": get, "POST": post, "DELETE": delete}
        self._a2a_dispatcher: JsonRpcDispatcher | None = None
        self._mcp = mcp_endpoint.mcp_server(service, access.owner_in)
        self._starlette = Starlette(
            routes=[
                *(
                    Route(path, self._guarded(path, endpoint), methods=[method])
                    for method, endpoints in methods.items()
                    for path, endpoint in endpoints.items()
                ),
                Mount("/mcp", self._guarded_mcp(mcp_endpoint.endpoint(self._mcp, service.limits.max_body_bytes))),
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

    def _guarded_mcp(self, endpoint: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                self._access.owner(Request(scope), "/mcp")
            except RequestRefused as error:
                await _refused(error, "/mcp")(scope, receive, send)
                return
            await endpoint(scope, receive, send)

        return guarded

    def _guarded(self, path: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                response = await endpoint(request, self._access.owner(request, path))
            except Exception as error:
                response = _refused(error, path)
            self._metrics.requests.labels(path, request.method, str(response.status_code)).inc()
            return response

        return guarded

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        what = "has no such method" if status == 405 else "does not exist"
        text = f"{request.method} {request.url.path} {what} on this server."
        return _error(status, "not_found" if status == 404 else "no_such_method", text)

    # -- runs ---------------------------------------------------------------------------------------------

    async def _submit(self, request: Request, owner: str) -> Response:
        body = await self._body(request, RunBody)
        key = request.headers.get("idempotency-key")
        asked = RunRequest(body.prompt, body.session, key, body.timeout_s)
        run_id = await self.service.submit(asked, owner)
        headers = {"Location": f"runs/{run_id}", "Run-Id": run_id}
        if "text/event-stream" in request.headers.get("accept", ""):
            return await self._stream(run_id, 0, owner, headers)
        return JSONResponse({"run_id": run_id}, status_code=201, headers=headers)

    async def _list(self, request: Request, owner: str) -> Response:
        limit = _number(request, "limit", 100, most=MOST_LISTED)
        found = await self.service.runs(owner, session=request.query_params.get("session"), limit=int(limit))
        return JSONResponse({"runs": [_entry(summary) for summary in found]})

    async def _run(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        if wait_s := _number(request, "wait", 0.0, most=MOST_WAIT_S):
            with anyio.move_on_after(wait_s):
                await self._ended(run_id, owner)
        stored, end = await self.service.stored(run_id, owner)
        pending = [asdict(call) for call in stored.state.pending]
        view = {**_entry(stored.summary), "pending": pending, "usage": asdict(stored.state.usage)}
        if isinstance(end, RunFinishedEvent):
            view |= {"output": end.output, "confidence": end.confidence}
        elif isinstance(end, RunFailedEvent):
            view["error"] = {"type": end.error_type, "message": end.error}
        return JSONResponse(view)

    async def _ended(self, run_id: str, owner: str) -> None:
        """Wait until a run does not go on."""
        n_before = await self.service.n_events(run_id, owner)  # the end of a run that still goes on comes behind
        if (await self.service.summary(run_id, owner)).status == "running":
            await wait_for_end(await self.service.follow(run_id, n_before, owner))

    async def _events(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        given = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        if not (given.isascii() and given.isdecimal() and len(given) < 16):
            raise RequestRefused("bad_request", f"Last-Event-ID {given!r} is not the number of an event.")
        after = int(given)
        summary = await self.service.summary(run_id, owner)
        if after and summary.status not in UNENDED:
            (*_, last) = await self.service.page(run_id, after - 1, owner)
            if last.number == after:
                return Response(status_code=204)  # all is read: an EventSource does not ask again
        return await self._stream(run_id, after, owner, {})

    async def _stream(self, run_id: str, after: int, owner: str, headers: Mapping[str, str]) -> Response:
        return self._streaming(_lines(await self.service.follow(run_id, after, owner)), headers)

    def _streaming(self, lines: AsyncIterator[bytes], headers: Mapping[str, str]) -> Response:
        timeout_s = self.service.limits.send_timeout_s
        return EventSourceResponse(lines, headers=dict(headers), sep="\n", send_timeout=timeout_s)

    async def _decide(self, request: Request, owner: str) -> Response:
        body = await self._body(request, DecisionsBody)
        run_id = request.path_params["run_id"]
        await self.service.decide(run_id, [each.as_decision() for each in body.decisions], owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _cancel(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        await self.service.cancel(run_id, owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _resume(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        await self.service.resume(run_id, owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _delete(self, request: Request, owner: str) -> Response:
        await self.service.delete(request.path_params["run_id"], owner)
        return Response(status_code=204)

    async def _ag_ui(self, request: Request, owner: str) -> Response:
        with _extra("ag-ui"):
            from agentkit.serving import ag_ui
        given = await self._body(request, ag_ui.RunAgentInput)
        run_id, after = await ag_ui.accept(self.service, given, owner)
        batches = await self.service.follow(run_id, after, owner)
        return self._streaming(ag_ui.lines(batches, given), {"Run-Id": run_id})

    async def _vercel(self, request: Request, owner: str) -> Response:
        run_id, after = await vercel.accept(self.service, await self._body(request, vercel.ChatBody), owner)
        batches = await self.service.follow(run_id, after, owner)
        return self._streaming(vercel.lines(batches, run_id), {**vercel.HEADERS, "Run-Id": run_id})

    async def _vercel_again(self, request: Request, owner: str) -> Response:
        run_id = await vercel.running_run(self.service, request.path_params["chat"], owner)
        if run_id is None:
            return Response(status_code=204)  # the SDK's sign that there is nothing to read on
        batches = await self.service.follow(run_id, 0, owner)
        return self._streaming(vercel.lines(batches, run_id), vercel.HEADERS)

    async def _chat(self, request: Request, owner: str) -> Response:
        body = await self._body(request, openai_chat.ChatBody)
        run_id = await openai_chat.accept(self.service, body, request.headers.get("idempotency-key"), owner)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            told = openai_chat.chunks(self.service, run_id, owner, with_usage=usage)
            return self._streaming(told, {"Run-Id": run_id})
        whole = await _unless_left(request, openai_chat.completion(self.service, run_id, owner))
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
        return JSONResponse({"session": name, "messages": to_jsonable_python(history.messages)})

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
        limits = self.service.limits
        return await read_body(request, model, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)


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


async def _unless_left(request: Request, work: Awaitable[Any]) -> Any:
    """Return what `work` returns; cancel it if the client closes the connection."""
    found: Any = None

    async def watch() -> None:
        while not await request.is_disconnected():
            await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            found = await work
        except Exception as error:  # the task group would wrap it in an ExceptionGroup
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found


async def _lines(batches: Batches) -> AsyncIterator[bytes]:
    """Yield events as server-sent events, until one ends the run or lets it wait."""
    async for events in until_end(batches):
        yield b"".join(map(_line, events))


def _line(event: StoredEvent) -> bytes:
    fields = f'{{"number":{event.number},"time":{event.time},{event.body[1:]}'
    return f"id: {event.number}\ndata: {fields}\n\n".encode()


def _entry(summary: RunSummary) -> dict[str, Any]:
    return {
        "run_id": summary.run_id,
        "status": summary.status,
        "session": summary.metadata.get(SESSION),
        "created_at": summary.created_at,
        "updated_at": summary.updated_at,
    }


def _number(request: Request, name: str, default: float, *, most: float) -> float:
    given = request.query_params.get(name)
    try:
        value = default if given is None else float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise RequestRefused("bad_request", f"{name}={given!r} must be a number from 0 to {most:g}.")
    return value


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
    body = {"error": {"code": code, "message": message, "param": param}}
    return JSONResponse(body, status_code=status, headers=headers)
