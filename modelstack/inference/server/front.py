"""The server in front of a worker: it passes requests on, and outlives the process that evaluates the model.

A request whose reply has not begun when the worker ends is given to the next one, once: a request that ends two
workers gets an error. A stream that has begun ends in an error event in its protocol's form.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import httpx
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from modelstack.inference.server.access import check_key
from modelstack.inference.server.bodies import read_content
from modelstack.inference.server.errors import ApiError, api_error
from modelstack.inference.server.reply_response import error_event, error_response, form_of
from modelstack.inference.server.replying import Limits
from modelstack.inference.server.worker_process import Supervisor

logger = logging.getLogger(__name__)

N_ATTEMPTS = 2
"""Workers that a request is given to."""
_OF_A_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "content-length",
        "date",
        "server",
    }
)
"""Headers that concern one connection (RFC 9110, 7.6.1), or that this server writes itself."""
EVENT_END = b"\n\n"


class FrontApp:
    """The endpoints of a supervised model."""

    def __init__(self, supervisor: Supervisor, *, key: str | None, limits: Limits) -> None:
        """Pass requests on to the supervisor's worker.

        Args:
            supervisor: Owner of the worker.
            key: Key that clients must send; None: all may ask.
            limits: Limits of size and time.
        """
        self._supervisor, self._key, self._limits = supervisor, key, limits
        self._registry = CollectorRegistry()
        about = "Starts of the process that evaluates the model after the first."
        self._restarts = Gauge("modelstack_worker_restarts", about, registry=self._registry)

    def asgi(self) -> Starlette:
        """Return the application."""
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/{path:path}", self._passed_on, methods=methods),
            ]
        )

    async def _health(self, request: Request) -> Response:
        if self._supervisor.is_ready:
            return JSONResponse({"status": "ok"})
        loading = ApiError(503, "the model is being loaded again", None, "model_loading")
        return error_response(loading, form_of(request.url.path))

    async def _passed_on(self, request: Request) -> Response:
        limits = self._limits
        try:
            check_key(request, self._key)
            content = await read_content(request, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        except ApiError as error:
            return error_response(error, form_of(request.url.path))
        return PassedOnResponse(self._supervisor, request, content, limits, self._own_metrics)

    def _own_metrics(self) -> bytes:
        self._restarts.set(self._supervisor.n_restarts)
        return generate_latest(self._registry)


class PassedOnResponse(Response):
    """Gives a request to the worker while it is sent, and the worker's response to the client."""

    def __init__(
        self,
        supervisor: Supervisor,
        request: Request,
        content: bytes,
        limits: Limits,
        own_metrics: Callable[[], bytes],
    ) -> None:
        """Pass a request on; what `own_metrics` returns follows the worker's metrics."""
        super().__init__()
        self._supervisor, self._content, self._limits = supervisor, content, limits
        self._request, self._own_metrics = request, own_metrics
        self._form = form_of(request.url.path)
        self._has_begun = False
        """Whether a stream has begun to be sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; the worker's reply is stopped if the client leaves or reads nothing for too long."""
        async with anyio.create_task_group() as tasks:

            async def stop_if_left() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_if_left)
            with suppress(TimeoutError):  # the client reads nothing
                response = await self._answered(send)
                if response is not None:
                    await response(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _answered(self, send: Send) -> Response | None:
        """Return the response; None: it was a stream, and was sent.

        Raises:
            TimeoutError: The client reads nothing.
        """
        try:
            return await self._of_a_worker(send)
        except TimeoutError:
            raise
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                logger.exception("%s failed", self._request.url.path)
            if not self._has_begun:
                return error_response(known, self._form)
            await self._send(error_event(known, self._form), send, is_last=True)
            return None

    async def _of_a_worker(self, send: Send) -> Response | None:
        """Return a worker's response; None: it was a stream, and was sent.

        Raises:
            ApiError: No worker answers.
        """
        for _ in range(N_ATTEMPTS):
            worker = await self._supervisor.worker()
            try:
                return await self._of(worker.client, send)
            except httpx.TransportError as error:
                if not await worker.has_ended():
                    message = f"the process that evaluates the model closed the connection: {error}"
                    raise ApiError(502, message) from error
                if self._has_begun:
                    message = "the process that evaluates the model ended during this reply; ask again"
                    raise ApiError(503, message, None, "worker_ended") from error
        message = f"the process that evaluates the model ended {N_ATTEMPTS} times during this request"
        raise ApiError(503, message, None, "worker_ended")

    async def _of(self, client: httpx.AsyncClient, send: Send) -> Response | None:
        request = self._request
        url = httpx.URL(path=request.url.path, query=request.url.query.encode())
        headers = [pair for pair in request.headers.items() if pair[0] not in _OF_A_CONNECTION]
        async with client.stream(request.method, url, headers=headers, content=self._content) as response:
            kept = {name: value for name, value in response.headers.items() if name not in _OF_A_CONNECTION}
            if not kept.get("content-type", "").startswith("text/event-stream"):
                content = b"".join([part async for part in response.aiter_raw()])
                if request.url.path == "/metrics" and response.is_success:
                    content += self._own_metrics()
                return Response(content, response.status_code, kept)
            async for part in whole_events(response.aiter_raw()):
                if not self._has_begun:
                    self._has_begun = True
                    raw = [(name.encode(), value.encode()) for name, value in kept.items()]
                    await send({"type": "http.response.start", "status": response.status_code, "headers": raw})
                await self._send(part, send)
            await self._send(b"", send, is_last=True)
            return None

    async def _send(self, part: bytes, send: Send, *, is_last: bool = False) -> None:
        with anyio.fail_after(self._limits.send_timeout_s):
            await send({"type": "http.response.body", "body": part, "more_body": not is_last})


async def whole_events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a stream in pieces that end where an event does, so that an error event never follows half of one."""
    waiting = b""
    async for part in parts:
        whole, end, waiting = (waiting + part).rpartition(EVENT_END)
        if end:
            yield whole + end
